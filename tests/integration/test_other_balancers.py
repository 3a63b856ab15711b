"""nginx and vLLM's own router in front of members: real gateways over engines that are told what to answer."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from stepserve.access_settings import AccessSettings
from stepserve.contract import ActivateRequest, ModelRef
from tests import debian
from tests.e2e.environments import python_with
from tests.e2e.server import free_port
from tests.integration.full_stack import full_stack
from tests.integration.programs import REPOSITORY

NAMES = ("a", "b")


@dataclass(frozen=True)
class Member:
    """Leaving `stack` ends it."""

    url: str
    stack: AsyncExitStack

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


Members = dict[str, Member]
Balancer = Callable[[Path, Members], AbstractContextManager[str]]


@asynccontextmanager
async def members(base: Path) -> AsyncIterator[Members]:
    """Two of them, told apart by the digest of what they serve."""
    made: Members = {}
    async with AsyncExitStack() as all_:
        for name in NAMES:
            stack = await all_.enter_async_context(AsyncExitStack())
            folder = base / name
            there = await stack.enter_async_context(
                full_stack(folder, with_control=False, access=AccessSettings(mode="open"))
            )
            await there.gateway.pool.activate(
                ActivateRequest(model=ModelRef(id="m", path=str(folder), digest=f"sha256:{name}"))
            )
            made[name] = Member(there.url, stack)
        yield made


@contextmanager
def started(*command: object) -> Iterator[None]:
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(240)


@contextmanager
def nginx(folder: Path, there: Members) -> Iterator[str]:
    """With deploy/nginx/fleet.conf, whose addresses are put in the place of its examples."""
    port = free_port()
    ours = (REPOSITORY / "deploy" / "nginx" / "fleet.conf").read_text()
    places = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "192.0.2.10:8765": there["a"].address,  # any gateway is a head to what is not inference
        "192.0.2.11:8765": there["a"].address,
        "192.0.2.12:8765": there["b"].address,
    }
    for example, address in places.items():
        assert example in ours
        ours = ours.replace(example, address)
    (folder / "fleet.conf").write_text(ours)
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {temporary} include {folder}/fleet.conf; }}"
    )
    program = debian.program("nginx", "nginx-light")
    with started(program, "-e", "stderr", "-c", folder / "nginx.conf"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def vllm_router(folder: Path, there: Members) -> Iterator[str]:
    port = free_port()
    program = python_with("vllm-router").with_name("vllm-router")
    address = ["--host", "127.0.0.1", "--port", port, "--prometheus-port", free_port(), "--log-dir", folder]
    with started(
        program, *address, "--policy", "consistent_hash", "--worker-urls", *(each.url for each in there.values())
    ):
        yield f"http://127.0.0.1:{port}"


async def _asked(http: httpx.AsyncClient, session: str | None = None, **headers: str) -> httpx.Response:
    sent = {**headers, **({"x-session-id": session} if session else {})}
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    return await http.post("/v1/chat/completions", json=body, headers=sent)


def _by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-digest"].removeprefix("sha256:")


@pytest.mark.parametrize(("balancer", "asks_again"), [(nginx, True), (vllm_router, False)])
async def test_members_behind_a_balancer_of_others(tmp_path: Path, balancer: Balancer, asks_again: bool) -> None:
    """vLLM's router fails requests for a member that is gone until it has noticed."""
    async with members(tmp_path) as there:
        with balancer(tmp_path, there) as url:
            async with httpx.AsyncClient(base_url=url, timeout=240, trust_env=False) as http:
                await _until_it_answers(http)
                homes = {session: _by(await _asked(http, session)) for session in map(str, range(12))}
                assert set(homes.values()) == set(NAMES)
                for session, home in homes.items():
                    assert _by(await _asked(http, session)) == home, "a session stays"
                too_much = await _asked(http, **{"x-model-version": "0", "x-min-model-version": "0"})
                assert "excludes" in too_much.text, "members are asked with the client's headers"
                await there["b"].stack.aclose()
                if not asks_again:
                    await _until_it_answers(http, *(each for each, home in homes.items() if home == "b"))
                for session in homes:
                    assert _by(await _asked(http, session)) == "a"


async def _until_it_answers(http: httpx.AsyncClient, *sessions: str) -> None:
    async with asyncio.timeout(240):
        while True:
            try:
                if all([(await _asked(http, each)).status_code == 200 for each in sessions or (None,)]):
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
