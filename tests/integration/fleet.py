"""The head of a fleet, a real gateway with a control that only knows members, and members on ports of their own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.balancing.members import Members
from gateway.balancing.view_link import ViewLink
from stepserve.access_settings import AccessSettings
from stepserve.contract import ActivateRequest, ModelRef
from stepserve.fleet import FLEET_PATH, LOCAL_MEMBER, Committed, FleetMember, FleetView
from tests.integration import misbehaving
from tests.integration.full_stack import FullStack, full_stack, on_socket
from tests.integration.misbehaving import Behaviour, Headers, Upstream, upstream
from tests.unit.gateway.balancing.views import DIGEST, MODEL, member
from tests.unit.gateway.fakes import FakeEngine

OPEN = AccessSettings(mode="open")


@dataclass(eq=False)
class Node:
    """A member that answers with what it serves, unless it `behave`s otherwise. `control_says`: what the view has."""

    name: str
    version: int = 0
    digest: str = DIGEST
    state: str = "ready"
    model: str = MODEL
    behave: Behaviour | None = None
    server: Upstream = field(init=False)
    control_says: dict[str, Any] = field(default_factory=dict)

    async def answer(self, there: Upstream, headers: Headers, body: bytes, writer: asyncio.StreamWriter) -> None:
        if self.behave is not None:
            await self.behave(there, headers, body, writer)
            return
        content = {"choices": [{"message": {"content": self.name}}], "usage": {"prompt_tokens": 1}}
        await misbehaving.answer(writer, 200, content, *self.identity)

    @property
    def identity(self) -> list[str]:
        return [
            f"x-model-id: {self.model}", f"x-model-digest: {self.digest}", f"x-model-version: {self.version}",
        ]  # fmt: skip

    @property
    def entry(self) -> FleetMember:
        said: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "state": self.state,
        }
        return member(self.name, url=self.server.url.removesuffix("/v1"), **{**said, **self.control_says})


@dataclass
class Fleet:
    """`local`: what control says of the head's own gateway."""

    head: FullStack
    nodes: list[Node]
    engine: FakeEngine
    local: FleetMember
    committed: Committed = field(default_factory=lambda: Committed(model=MODEL, digest=DIGEST))

    @property
    def link(self) -> ViewLink:
        balancing = self.head.gateway.balancing
        assert balancing is not None
        return balancing.link

    @property
    def members(self) -> Members:
        return self.link.members

    @property
    def view(self) -> FleetView:
        return FleetView(
            gateways=[self.local, *(each.entry for each in self.nodes)], committed=self.committed, lease_s=10.0
        )

    async def seen(self) -> None:
        """Waits until the head has asked control for the view as it is now."""
        await self.link.look()

    async def ask(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        asked = {"model": "active", "messages": [{"role": "user", "content": "?"}], **body}
        return await self.head.http.post("/v1/chat/completions", json=asked, headers=headers)


@asynccontextmanager
async def fleet(base: Path, *nodes: Node, **changes: Any) -> AsyncIterator[Fleet]:
    """With the head's gateway cordoned, so that it answers nothing itself unless a test says so."""
    told: list[Fleet] = []
    engines: list[FakeEngine] = []

    async def show(_: Request) -> Response:
        return Response(told[0].view.model_dump_json(), media_type="application/json")

    def make(model: ModelRef) -> FakeEngine:
        engines.append(FakeEngine(model))
        return engines[-1]

    async with AsyncExitStack() as stack:
        for node in nodes:
            node.server = await stack.enter_async_context(upstream(node.answer))
        changes = {"access": OPEN, **changes}
        head = await stack.enter_async_context(full_stack(base, with_control=False, make_engine=make, **changes))
        await head.gateway.pool.activate(ActivateRequest(model=ModelRef(id=MODEL, path=str(base), digest=DIGEST)))
        told.append(Fleet(head, list(nodes), engines[0], member(LOCAL_MEMBER, state="cordoned")))
        await stack.enter_async_context(
            on_socket(Starlette(routes=[Route(FLEET_PATH, show)]), head.settings.layout.control_socket)
        )
        await told[0].seen()
        yield told[0]


async def streams(there: Upstream, _: Headers, body: bytes, writer: asyncio.StreamWriter, *identity: str) -> None:
    """Begins a stream, and waits."""
    lines = ["HTTP/1.1 200 X", "content-type: text/event-stream", "transfer-encoding: chunked", *identity]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    await misbehaving.event(writer, misbehaving.piece("one"))


def content_of(answer: httpx.Response) -> str:
    said: str = json.loads(answer.content)["choices"][0]["message"]["content"]
    return said
