"""The gateway's own copy of all keys: no request waits for the database, and none is let in because it is away."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gateway.access.succession import WAY_OUT, objection
from gateway.errors import Unauthorized, Unserved
from stepserve.access import ANONYMOUS, SETTINGS_KEY, KeyMemory, KeyRecord, KeySet, Scope, digest_of, id_of
from stepserve.access_settings import AccessSettings
from stepserve.durable import written_aside

log = logging.getLogger(__name__)

_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from. `record` is None for the anonymous caller and for the settings' own key."""

    id: str
    scopes: frozenset[Scope]
    record: KeyRecord | None = None


NOBODY = Caller(ANONYMOUS, frozenset())
EVERYBODY = Caller(ANONYMOUS, frozenset({"admin"}))  # where no key is demanded, everybody may everything
TRAINER = Caller(ANONYMOUS, frozenset({"infer", "weights"}))  # one of the setting access.trainers, without a key
_SETTINGS_CALLER = Caller(SETTINGS_KEY, frozenset({"admin"}))


class Keyring:
    """Filled from a file at start and by control ever after; the file is what a restart without control lives on.

    Once keys were demanded they always are: a set that cannot follow the one here (gateway.access.succession) closes
    the server, until one comes that can or the machine's owner accepts it.
    """

    def __init__(self, settings: AccessSettings, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._mode = settings.mode
        self._admin_digest = digest_of(settings.admin_key.get_secret_value()) if settings.admin_key else None
        self._file = file
        self._clock = clock
        self._set: KeySet | None = None
        self._demanded = self._mode == "keys" or self._admin_digest is not None
        self._objection: str | None = None
        self._is_broken = False
        self._callers: dict[str, Caller] = {}
        self._known = asyncio.Event()
        self._load()

    @property
    def version(self) -> tuple[str | None, int]:
        """Epoch and revision of what is here; (None, -1) before anything is."""
        return (self._set.epoch, self._set.revision) if self._set else (None, -1)

    @property
    def demands_keys(self) -> bool:
        """True while a request without a key is refused. Once they were, they always are, lost or not."""
        if self._mode != "auto":
            return self._mode == "keys"
        return self._demanded or self._set is None

    @property
    def closed(self) -> str | None:
        """Why no key of a database opens anything now; None where keys do."""
        if self._objection is not None:
            return self._objection
        if self._mode == "auto" and self._admin_digest is None and self._demanded and self._set and not self._set.keys:
            return "keys were demanded here, and there are none now"
        return None

    @property
    def lets_others_in(self) -> bool:
        """Whether other machines may reach the server: keys are demanded, or somebody has said that none is wanted.

        Not while the keys are unknown: there may be none.
        """
        if self._mode != "auto" or self._admin_digest is not None:
            return True
        return self._set is not None and self._demanded and self.closed is None

    @property
    def is_known(self) -> bool:
        """Whether it is known here if there are keys, as far as that matters."""
        return self._known.is_set() or self._mode != "auto" or self._admin_digest is not None

    async def known(self, timeout_s: float) -> None:
        """Waits until there are keys here, or it is known that there are none; gives up quietly after `timeout_s`."""
        if not self.is_known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), timeout_s)

    def put(self, keys: KeySet, asked_with: int | None = None) -> bool:
        """Takes over a set that follows the one here, and closes the server for one that cannot. True if taken.

        An older set of the same database may only have been overtaken, and is left; unless control gave it to who had
        said that it has the revision `asked_with`, which is newer.
        """
        here = self._set
        if self._is_broken:
            return False
        if here is not None:
            if here.epoch == keys.epoch and keys.revision < here.revision and keys.revision >= (asked_with or 0):
                return False
            self._object(objection(here, keys))
            if self._objection is not None or here == keys:
                return False
        self._take(keys)
        self._save()
        return True

    def accept(self, keys: KeySet) -> None:
        """Takes a set over whatever was here: the machine's owner said so."""
        self._is_broken = False
        self._object(None)
        self._demanded = True
        self._take(keys)
        self._save()

    def caller(self, token: str | None) -> Caller:
        """Whom a key belongs to. Raises Unauthorized, which says why; Unserved while the server is closed, and while
        the keys are not known yet.
        """
        if not self.demands_keys:
            return EVERYBODY
        given = digest_of(token) if token is not None else _NO_DIGEST
        if self._admin_digest is not None and hmac.compare_digest(given, self._admin_digest):
            return _SETTINGS_CALLER
        if (closed := self.closed) is not None:
            raise Unserved(f"The server is closed: {closed}. {WAY_OUT}", None)
        if self._set is None and self._mode == "auto" and self._admin_digest is None:
            raise Unserved("The keys are not known yet: the control process is starting.", 1.0)
        if token is None:
            raise Unauthorized("A key is needed: send it as `Authorization: Bearer …` or `X-API-Key: …`.")
        if self._set is None:
            raise Unserved("The keys are not known yet: the control process is starting.", 1.0)
        key_id = id_of(token)
        if key_id is None:
            raise Unauthorized("The key is malformed; a whole one looks like sy_… and has 57 characters.")
        caller = self._callers.get(key_id)
        record = caller.record if caller else None
        # Compared even for an id that is not there, so that the time tells nothing.
        if not hmac.compare_digest(given, record.digest if record else _NO_DIGEST) or caller is None or record is None:
            raise Unauthorized("The key is not known.")
        self._check(record)
        return caller

    def check(self, caller: Caller) -> None:
        """Raises what `caller` would raise now for somebody who was let in before: Unauthorized, Unserved."""
        if caller in (_SETTINGS_CALLER, NOBODY, TRAINER):
            return
        if caller is EVERYBODY:
            if self.demands_keys:
                raise Unauthorized("Keys are demanded now.")
            return
        if not self.demands_keys:
            return
        if (closed := self.closed) is not None:
            raise Unserved(f"The server is closed: {closed}. {WAY_OUT}", None)
        now = self._callers.get(caller.id)
        if now is None or now.record is None:
            raise Unauthorized(f"The key {caller.id} is not known any more.")
        self._check(now.record)

    def _check(self, record: KeyRecord) -> None:
        """Raises Unauthorized."""
        if record.revoked:
            raise Unauthorized(f"The key {record.id} is revoked.")
        if record.expires_at is not None and record.expires_at <= self._clock():
            raise Unauthorized(f"The key {record.id} is expired.")

    def _object(self, why: str | None) -> None:
        if why is not None and why != self._objection:
            log.error("the server is closed: %s. %s", why, WAY_OUT)
        elif why is None and self._objection is not None:
            log.warning("the keys are those that this server had, or were accepted: it is open for them again")
        self._objection = why

    def _take(self, keys: KeySet) -> None:
        self._set = keys
        self._demanded = self._demanded or bool(keys.keys)
        self._known.set()
        self._callers = {record.id: Caller(record.id, frozenset(record.scopes), record) for record in keys.keys}

    def _load(self) -> None:
        try:
            stored = KeyMemory.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("the copy of the keys in %s cannot be used: %s", self._file, error)
            # Whether keys were demanded, and which were revoked, stood in it.
            self._is_broken = self._demanded = True
            self._object(f"its own copy of the keys, {self._file}, cannot be read")
            self._known.set()
            return
        was_demanded = stored.demanded
        self._demanded = self._demanded or stored.demanded
        self._take(KeySet(epoch=stored.epoch, revision=stored.revision, keys=stored.keys))
        if self._demanded and not was_demanded:
            self._save()

    def _save(self) -> None:
        """Durably, in one step, and readable for this user alone."""
        keys = self._set
        assert keys is not None
        memory = KeyMemory(epoch=keys.epoch, revision=keys.revision, keys=keys.keys, demanded=self._demanded)
        try:
            with written_aside(self._file) as aside:
                aside.touch(mode=0o600)
                aside.write_text(memory.model_dump_json(), encoding="utf-8")
        except OSError as error:
            log.error("the copy of the keys in %s could not be written: %s", self._file, error)
