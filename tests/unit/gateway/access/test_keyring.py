"""Keys without a database: valid, wrong, revoked, expired, unknown, overtaken."""

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.access.keyring import EVERYBODY, Keyring
from gateway.errors import Unauthorized, Unserved
from stepserve.access import KeyMemory, KeyRecord, KeySet, digest_of, new_token
from stepserve.access_settings import AccessSettings

NOW = 1_000_000.0
KEY_ID, TOKEN = new_token()
NO_KEYS = KeySet(epoch="", revision=0, keys=[])


def key_set(revision: int = 1, epoch: str = "e", **changed: Any) -> KeySet:
    record = {"id": KEY_ID, "name": "n", "digest": digest_of(TOKEN), "scopes": ["infer"]} | changed
    return KeySet(epoch=epoch, revision=revision, keys=[KeyRecord.model_validate(record)])


def keyring(tmp_path: Path, keys: KeySet | None = None, **settings: object) -> Keyring:
    made = Keyring(AccessSettings.model_validate(settings), tmp_path / "keys.json", lambda: NOW)
    if keys is not None:
        made.put(keys)
    return made


def test_a_valid_key(tmp_path: Path) -> None:
    caller = keyring(tmp_path, key_set()).caller(TOKEN)
    assert (caller.id, caller.scopes) == (KEY_ID, frozenset({"infer"}))


@pytest.mark.parametrize(
    ("changed", "token", "said"),
    [
        ({}, None, "A key is needed"),
        ({}, "", "malformed"),
        ({}, TOKEN[:-1], "malformed"),
        ({}, "Bearer " + TOKEN, "malformed"),
        ({}, TOKEN[:-1] + ("A" if TOKEN[-1] != "A" else "B"), "not known"),
        ({}, new_token()[1], "not known"),
        ({"revoked": True}, TOKEN, "revoked"),
        ({"expires_at": NOW}, TOKEN, "expired"),
        ({"expires_at": NOW - 1, "revoked": True}, TOKEN, "revoked"),
    ],
    ids=["none", "empty", "cut", "prefixed", "changed", "unknown", "revoked", "expired", "both"],  # tokens are random
)
def test_a_key_that_opens_nothing(tmp_path: Path, changed: dict[str, Any], token: str | None, said: str) -> None:
    with pytest.raises(Unauthorized, match=said) as refused:
        keyring(tmp_path, key_set(**changed)).caller(token)
    if token:
        assert token not in str(refused.value)


def test_before_it_expires_it_is_valid(tmp_path: Path) -> None:
    assert keyring(tmp_path, key_set(expires_at=NOW + 0.1)).caller(TOKEN).id == KEY_ID


def test_without_keys_everybody_may_until_there_is_one(tmp_path: Path) -> None:
    ring = keyring(tmp_path, NO_KEYS)
    assert ring.caller(None) is ring.caller("nonsense") is EVERYBODY
    assert not ring.lets_others_in
    ring.put(key_set())
    with pytest.raises(Unauthorized):
        ring.caller(None)
    assert keyring(tmp_path, key_set()).lets_others_in


def test_a_revoked_key_does_not_open_the_door_to_everybody(tmp_path: Path) -> None:
    with pytest.raises(Unauthorized):
        keyring(tmp_path, key_set(revoked=True)).caller(None)


def test_keys_that_are_not_known_yet_let_nobody_in(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    assert not ring.lets_others_in
    for token in (None, TOKEN):
        with pytest.raises(Unserved):
            ring.caller(token)


def test_the_settings_say_whether_keys_are_needed(tmp_path: Path) -> None:
    assert keyring(tmp_path, key_set(), mode="open").caller(None) is EVERYBODY
    (tmp_path / "other").mkdir()
    with pytest.raises(Unauthorized):
        keyring(tmp_path / "other", NO_KEYS, mode="keys").caller(None)


def test_the_settings_own_key_needs_no_database(tmp_path: Path) -> None:
    ring = keyring(tmp_path, admin_key=SecretStr("k" * 32))
    assert ring.caller("k" * 32).scopes == frozenset({"admin"})
    assert ring.lets_others_in
    ring.put(NO_KEYS)
    with pytest.raises(Unauthorized):
        ring.caller("k" * 31 + "l")


def test_an_older_set_never_replaces_a_newer_one(tmp_path: Path) -> None:
    ring = keyring(tmp_path, key_set(revision=5, revoked=True))
    assert not ring.put(key_set(revision=4))
    with pytest.raises(Unauthorized, match="revoked"):
        ring.caller(TOKEN)
    assert ring.closed is None


def test_the_copy_outlives_a_restart_and_is_nobody_elses(tmp_path: Path) -> None:
    keyring(tmp_path, key_set(revision=3))
    file = tmp_path / "keys.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert TOKEN not in file.read_text()
    again = keyring(tmp_path)
    assert again.version == ("e", 3)
    assert again.caller(TOKEN).id == KEY_ID


@pytest.mark.parametrize(
    "found",
    [
        NO_KEYS,
        KeySet(epoch="e", revision=6, keys=[]),
        key_set(revision=6, epoch="another database"),
        key_set(revision=6),  # the revoked key is valid again
        key_set(revision=5),
    ],
)
def test_a_set_that_cannot_follow_closes_the_server_until_it_is_accepted(tmp_path: Path, found: KeySet) -> None:
    ring = keyring(tmp_path, key_set(revision=5, revoked=True))
    assert not ring.put(found)
    for again in (ring, keyring(tmp_path, found)):
        for token in (None, TOKEN, new_token()[1]):
            with pytest.raises(Unserved, match="stepserve keys recover"):
                again.caller(token)
        assert not again.lets_others_in
    ring.accept(found)
    with pytest.raises((Unauthorized, Unserved)):
        ring.caller(None)
    if found.keys:
        assert ring.caller(TOKEN).id == KEY_ID
        assert keyring(tmp_path, found).caller(TOKEN).id == KEY_ID


def test_an_older_set_from_control_that_knew_better_closes_the_server(tmp_path: Path) -> None:
    ring = keyring(tmp_path, key_set(revision=5))
    assert not ring.put(key_set(revision=4), asked_with=4)
    assert ring.caller(TOKEN).id == KEY_ID
    assert not ring.put(key_set(revision=4), asked_with=5)
    with pytest.raises(Unserved):
        ring.caller(TOKEN)
    ring.put(key_set(revision=6))
    assert ring.caller(TOKEN).id == KEY_ID


def test_settings_that_demanded_keys_are_remembered(tmp_path: Path) -> None:
    keyring(tmp_path, NO_KEYS, mode="keys")
    ring = keyring(tmp_path, NO_KEYS)
    with pytest.raises(Unserved):
        ring.caller(None)
    assert keyring(tmp_path, NO_KEYS, mode="open").caller(None) is EVERYBODY
    ring.put(key_set())
    assert ring.caller(TOKEN).id == KEY_ID


def test_who_was_let_in_is_looked_at_again(tmp_path: Path) -> None:
    ring = keyring(tmp_path, NO_KEYS)
    anybody = ring.caller(None)
    ring.check(anybody)
    ring.put(key_set(revision=1))
    with pytest.raises(Unauthorized):
        ring.check(anybody)
    caller = ring.caller(TOKEN)
    ring.check(caller)
    ring.put(key_set(revision=2, expires_at=NOW))
    with pytest.raises(Unauthorized, match="expired"):
        ring.check(caller)
    ring.put(key_set(revision=3, revoked=True))
    with pytest.raises(Unauthorized, match="revoked"):
        ring.check(caller)


@pytest.mark.parametrize("content", ["", "{", '{"keys": 3}', "\x00"])
def test_a_broken_copy_lets_nobody_in(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    for ring in (keyring(tmp_path), keyring(tmp_path, NO_KEYS), keyring(tmp_path, key_set())):
        with pytest.raises(Unserved, match="stepserve keys recover"):
            ring.caller(None)


@pytest.mark.parametrize("seed", range(20))
def test_no_history_of_databases_brings_a_revoked_key_back_or_lets_everybody_in(tmp_path: Path, seed: int) -> None:
    """Keys come and go, backups of any age are put back and changed on, databases are lost, the gateway restarts."""
    chance = random.Random(seed)
    now, backups, tokens = NO_KEYS, [NO_KEYS], dict[str, str]()
    ring, revoked = keyring(tmp_path, now), set[str]()
    for _ in range(30):
        match chance.choice(["make", "make", "revoke", "revoke", "backup", "put back", "lose", "restart"]):
            case "make":
                key_id, token = new_token()
                tokens[key_id] = token
                record = KeyRecord(id=key_id, name="n", digest=digest_of(token), scopes=["infer"])
                now = KeySet(epoch=now.epoch or f"e{key_id}", revision=now.revision + 1, keys=[*now.keys, record])
            case "revoke" if now.keys:
                gone = chance.choice(now.keys).id
                keys = [each.model_copy(update={"revoked": each.revoked or each.id == gone}) for each in now.keys]
                now = KeySet(epoch=now.epoch, revision=now.revision + 1, keys=keys)
            case "backup":
                backups.append(now)
            case "put back":
                now = chance.choice(backups)
            case "lose":
                now = NO_KEYS
            case "restart":
                ring = keyring(tmp_path)
        ring.put(now, asked_with=ring.version[1])
        remembered = KeyMemory.model_validate_json((tmp_path / "keys.json").read_bytes())
        revoked |= {each.id for each in remembered.keys if each.revoked}
        for key_id in revoked:
            with pytest.raises((Unauthorized, Unserved)):
                ring.caller(tokens[key_id])
        if remembered.keys:
            with pytest.raises((Unauthorized, Unserved)):
                ring.caller(None)
