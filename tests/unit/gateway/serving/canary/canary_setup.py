"""A gateway with an active model and a candidate beside it, behind the real dispatch."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from gateway.inference.dispatch import Dispatch
from gateway.request.context import RequestContext
from gateway.serving.canary.canary import LEASE_S, Canary
from gateway.serving.canary.losses import Scorer
from gateway.serving.canary.shadow import Shadows
from gateway.serving.naming import Naming
from stepserve.canary import (
    CanaryOrder,
    CanaryReport,
    CanaryState,
)
from stepserve.contract import (
    ActivateRequest,
    AskOutput,
    AskRequest,
    AskResult,
)
from stepserve.settings import Alias
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, signature
from tests.unit.gateway.pool_harness import PoolHarness

SAYS_OLD = b'{"choices": [{"text": "four"}]}'


SHARE = 0.25


def order(canary_id: str = "job", **changed: object) -> CanaryOrder:
    asked = {
        "id": canary_id, "candidate": model("new"), "active": model("old").digest, "share": SHARE, "seconds": 60.0,
        "max_error_rate": 0.05, "sticky": "request",
    }  # fmt: skip
    return CanaryOrder.model_validate(asked | changed)


class CanarySetup:
    """`old` is active, `new` answers beside it."""

    def __init__(self, harness: PoolHarness) -> None:
        self.harness = harness
        self.now_s = 0.0
        self.canary = Canary(lambda: self.now_s)
        harness.tried = lambda: self.canary.tried
        self.naming = Naming({"quick": Alias(model="active", temperature=0.5)})
        self.dispatch = Dispatch(harness.router, 10_000, naming=self.naming, canary=self.canary)

    def engine(self, name: str) -> FakeEngine:
        return next(engine for engine in self.harness.starter.started if engine.ref.id == name)

    async def ask(
        self, number: int, name: str | None = "active", session: str = "", path: str = "/v1/completions"
    ) -> str:
        """Which model answered."""
        body = {"prompt": str(number)} | ({} if name is None else {"model": name})
        client = FakeClient(json.dumps(body).encode(), path)
        client.scope["headers"] = [(b"x-session-id", session.encode())] if session else []
        RequestContext.of(client.scope).request_id = f"r{number}"
        await self.dispatch(client.scope, client.receive, client.send)
        self.said = client.body
        return client.headers.get(b"x-model-id", b"").decode()

    def shadow(self, *texts: str, status: int = 200) -> list[AskRequest]:
        """The candidate's answers as it gives them to shadows, in turn; what it was asked."""
        asked: list[AskRequest] = []
        left = list(texts)

        async def ask(request: AskRequest) -> AskResult:
            asked.append(request)
            body = {"choices": [{"text": left.pop(0)}], "usage": {"completion_tokens": 5}} if status == 200 else {}
            return AskResult(model="new", digest="", outputs=[AskOutput(status=status, body=body)])

        self.canary.shadows = Shadows(ask, Scorer(self.harness.router))
        return asked

    async def answered_by_new(self, numbers: range, **how: str) -> set[int]:
        return {number for number in numbers if await self.ask(number, **how) == "new"}

    def state(self) -> CanaryState:
        return self.canary.order(order()).state


def canary_scenario(test: Callable[[CanarySetup], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        harness = PoolHarness()
        harness.free_bytes = 10**6
        async with harness.open(), asyncio.timeout(240):
            await harness.pool.activate(ActivateRequest(model=model("old")))
            await harness.load(model("new", signature()))
            await test(CanarySetup(harness))

    def played() -> None:
        asyncio.run(run())

    played.__name__ = str(getattr(test, "__name__", ""))
    return played


def ended(here: CanarySetup, asked: CanaryOrder) -> CanaryReport:
    """Its time passes."""
    while (report := here.canary.order(asked)).state == "running":
        here.now_s += LEASE_S / 2
    return report


async def settled(here: CanarySetup, asked: CanaryOrder, compared: int) -> CanaryReport:
    def is_over() -> bool:
        report = here.canary.order(asked)
        return report.compared >= compared or report.state != "running"

    await eventually(is_over)
    return here.canary.order(asked)
