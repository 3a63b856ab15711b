"""A server with keys whose database is lost, replaced or put back: closed, until its owner says otherwise."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from stepserve.access_settings import AccessSettings
from tests.eventually import eventually
from tests.integration.control_plane import run_sql
from tests.integration.full_stack import FullStack, bearer, full_stack, running_control
from tests.integration.programs import STEPSERVE, environment_of


@contextmanager
def control_process(base: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Control as `stepserve up` starts it, to be killed."""
    environment = environment_of(base, {"install_demo": "false", "database_url": ""})
    process = subprocess.Popen([sys.executable, "-m", "control"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def answering(there: FullStack) -> None:
    async def look() -> bool:
        try:
            return (await there.owner.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(look, bool)


async def asked(there: FullStack, key: str | None = None) -> int:
    headers = bearer(key) if key else {}
    return (await there.http.get("/models", headers=headers)).status_code


async def until_asked(there: FullStack, key: str | None, status: int) -> None:
    async def look() -> int:
        return await asked(there, key)

    assert await eventually(look, lambda seen: seen == status) == status


async def new_key(there: FullStack, **fields: Any) -> str:
    answer = await there.owner.post("/keys", json={"name": "n", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def recovered(there: FullStack, **body: Any) -> Any:
    answer = await there.owner.post("/internal/keys/recover", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def recover_by_command(base: Path) -> Any:
    """`stepserve keys recover`, as the machine's owner runs it."""
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        *STEPSERVE,
        *("keys", "recover", "--json"),
        env=environment_of(base, {}),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await command.communicate()
    assert command.returncode == 0
    return json.loads(said)


def remove_database(base: Path) -> None:
    for file in base.glob("db.sqlite*"):
        file.unlink()


async def test_a_database_that_is_gone_closes_the_server_in_whatever_order_its_processes_come_back(
    tmp_path: Path,
) -> None:
    async with full_stack(tmp_path, with_control=False) as there:
        with control_process(tmp_path) as control:
            await answering(there)
            key = await new_key(there, scopes=["admin"])
            revoked = await new_key(there, scopes=["infer"])
            await there.owner.delete(f"/keys/{revoked.split('_')[1]}")
            assert await asked(there, key) == 200
            remove_database(tmp_path)
            control.send_signal(signal.SIGKILL)
            control.wait()
        with control_process(tmp_path):
            await answering(there)
            await until_asked(there, key, 503)
            refused = await there.http.get("/models")
            assert refused.status_code == 503
            assert "stepserve keys recover" in refused.json()["detail"]
            assert await asked(there) == 503
    # The gateway starts again: first without control, then with the empty database.
    async with full_stack(tmp_path, with_control=False) as there:
        assert await asked(there) == 401
        with control_process(tmp_path):
            await answering(there)
            await until_asked(there, None, 503)
            assert await asked(there, key) == 503
            over_the_port = await there.http.post("/internal/keys/recover", json={})
            assert over_the_port.status_code == 503
            done = await recover_by_command(tmp_path)
            assert set(done["brought_back"]) == {key.split("_")[1], revoked.split("_")[1]}
            for opens, status in ((key, 200), (done["made"]["key"], 200), (revoked, 401), (None, 401)):
                assert await asked(there, opens) == status
            listed = await there.http.get("/keys", headers=bearer(key))
            assert {each["status"] for each in listed.json()["keys"]} == {"valid", "revoked"}


async def test_an_older_backup_does_not_bring_a_revoked_key_back(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    base = tmp_path / "base"
    async with full_stack(base, with_control=False) as there:
        async with running_control(there.settings):
            admin = await new_key(there, scopes=["admin"])
            leaked = await new_key(there)
        saved.mkdir()
        for file in base.glob("db.sqlite*"):
            shutil.copy(file, saved)
        async with running_control(there.settings):
            await there.owner.delete(f"/keys/{leaked.split('_')[1]}")
            assert (await there.chat(leaked)).status_code == 401
        remove_database(base)
        for file in saved.iterdir():
            shutil.copy(file, base)
        async with running_control(there.settings):
            await until_asked(there, admin, 503)
            # Changes until the numbers are past those that the gateway knows do not make it another state.
            for _ in range(3):
                await new_key(there)
                assert (await there.chat(leaked)).status_code == 503
            done = await recovered(there, new_key=False)
            assert (done["revoked"], done["made"]) == ([leaked.split("_")[1]], None)
            assert await asked(there, admin) == 200
            assert (await there.chat(leaked)).status_code == 401


async def test_the_right_database_opens_the_server_again_by_itself(tmp_path: Path) -> None:
    base, kept = tmp_path / "base", tmp_path / "kept"
    async with full_stack(base, with_control=False) as there:
        async with running_control(there.settings):
            key = await new_key(there, scopes=["admin"])
        kept.mkdir()
        for file in base.glob("db.sqlite*"):
            file.rename(kept / file.name)
        async with running_control(there.settings):
            await until_asked(there, key, 503)
        remove_database(base)
        for file in kept.iterdir():
            file.rename(base / file.name)
        async with running_control(there.settings):
            await until_asked(there, key, 200)


@pytest.mark.parametrize("statement", ["DELETE FROM api_keys", "UPDATE api_keys SET revoked_at = NULL"])
async def test_rows_that_were_changed_by_hand_widen_nothing(tmp_path: Path, statement: str) -> None:
    async with full_stack(tmp_path, with_control=False) as there:
        async with running_control(there.settings):
            admin = await new_key(there, scopes=["admin"])
            revoked = await new_key(there)
            await there.owner.delete(f"/keys/{revoked.split('_')[1]}")
        await run_sql(tmp_path, statement)
        await run_sql(tmp_path, "UPDATE access_state SET revision = revision + 1")
        async with running_control(there.settings):
            await until_asked(there, admin, 503)
            assert await asked(there) == 503


async def test_keys_demanded_by_settings_that_are_gone_leave_it_closed(tmp_path: Path) -> None:
    """An environment file that is not read any more is no wish to open the server."""
    async with full_stack(tmp_path, access=AccessSettings(mode="keys")) as there:
        assert await asked(there) == 401
    async with full_stack(tmp_path, with_control=False) as there, running_control(there.settings):
        await until_asked(there, None, 503)
        assert not there.gateway.keyring.lets_others_in
        key = await new_key(there, scopes=["admin"])
        assert await asked(there, key) == 200
        assert await asked(there) == 401


async def test_several_gateways_of_one_database(tmp_path: Path) -> None:
    """What one owner recovers, the other gateways take, as they knew the same keys."""
    first, second = tmp_path / "first", tmp_path / "second"
    url = f"sqlite+aiosqlite:///{tmp_path}/shared.sqlite"
    async with (
        full_stack(first, with_control=False, database_url=SecretStr(url)) as one,
        full_stack(second, with_control=False, database_url=SecretStr(url)) as other,
    ):
        async with running_control(one.settings), running_control(other.settings):
            key = await new_key(one, scopes=["admin"])
            await until_asked(other, None, 401)
        for file in tmp_path.glob("shared.sqlite*"):
            file.unlink()
        async with running_control(one.settings), running_control(other.settings):
            await until_asked(one, key, 503)
            await until_asked(other, key, 503)
            await recovered(one)
            assert await asked(one, key) == 200
            await until_asked(other, key, 200)
