"""Random interleavings of everything that changes what is loaded, on a virtual clock, and what must hold at each step.

`INTERLEAVINGS=10000 pytest tests/unit/gateway/test_interleavings.py` runs as many.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.errors import EngineReloadFailed, EngineStartFailed, GatewayError, ModelNotFound, NotLoaded, Unserved
from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, replay, until_disconnected
from gateway.serving.adapter import Adapter
from gateway.serving.gate import Gate
from gateway.serving.pauses import PauseRequest
from gateway.serving.pool import Pool
from gateway.serving.router import Router
from gateway.serving.served import Served
from gateway.serving.slot import Slot
from gateway.serving.switching.push import Pushed, PushRequest
from gateway.serving.watchdog import Watchdog
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import (
    ActivateRequest,
    ActivateResult,
    LoadRequest,
    ModelRef,
    Proof,
    Reference,
    WeightsVersion,
)
from tests.unit.gateway.fakes import FakeClient, FakeEngine, FakeFront, FreeBytes, Register, model, signature
from tests.unit.gateway.virtual_clock import VirtualLoop

A, B = model("a", signature()), model("b", signature())  # the one can be loaded in the other's place
C, D = model("c", signature(architecture="c")), model("d", signature(architecture="d"))
ON_A, ON_B, ON_C = (
    ModelRef(id=f"on-{base.id}", path="/", digest=f"sha256:on-{base.id}", base=base) for base in (A, B, C)
)
MODELS = [A, B, C, D, ON_A, ON_B, ON_C]
A2 = A.model_copy(update={"digest": "sha256:a2"})  # other content under an id that is in use
ENGINE_BYTES = 100
NEEDED_BYTES = ENGINE_BYTES + 1000

models = st.sampled_from([*MODELS, A2])
LONG_S = 300.0  # longer than any request takes

paces_s = st.sampled_from([0.0, 0.01, 3.0])
broken: st.SearchStrategy[frozenset[str]] = st.one_of(
    st.just(frozenset()), st.frozensets(st.sampled_from([each.id for each in MODELS]), max_size=3)
)
thens = st.one_of(st.integers(0, 12), st.sampled_from([0.005, 0.6, 4.0, 40.0]))


class Machine:
    """Where engines run: memory for `places` of them, and what is wrong with which model."""

    def __init__(self, places: int) -> None:
        self.places = self.measured_places = places
        self.pace_s = 0.0
        self.broken: set[str] = set()
        self.engines: list[PacedEngine] = []
        self.starting: list[ModelRef] = []
        self.violations: list[str] = []
        self.max_loaded = 1
        self.pool: Pool

    @property
    def alive(self) -> list["PacedEngine"]:
        return [engine for engine in self.engines if not engine.stopped]

    def free_bytes(self) -> int:
        self.measured_places = self.places
        return (self.places - len(self.alive)) * NEEDED_BYTES

    async def start(self, ref: ModelRef) -> "PacedEngine":
        self._check_start(ref)
        self.starting.append(ref)
        try:
            await asyncio.sleep(self.pace_s)
        finally:
            self.starting.remove(ref)
        if ref.id in self.broken:
            raise EngineStartFailed(f"{ref.id} does not start")
        engine = PacedEngine(ref, self)
        self.engines.append(engine)
        return engine

    def _check_start(self, ref: ModelRef) -> None:
        task = asyncio.current_task()
        by = task.get_name() if task is not None else ""
        if self.starting:
            self.violations.append(f"{ref.id} starts while {self.starting[0].id} does")
        for slot in self.pool.loaded.hosts:
            renewed = slot is self.pool.loaded.active and by.startswith("switch")
            if slot.model.digest == ref.digest and slot.phase != "stopped" and not slot.dead and not renewed:
                self.violations.append(f"a second engine for {ref.id} ({by})")
        if by.startswith("load") and len(self.alive) >= min(self.max_loaded, self.measured_places):
            self.violations.append(f"{by}: {len(self.alive)} engines are there already")
        if len(self.pool.loaded.hosts) > self.max_loaded:
            self.violations.append(f"{by}: {len(self.pool.loaded.hosts)} models are loaded")


class PacedFront(FakeFront):
    def __init__(self, ref: ModelRef, engine: "PacedEngine") -> None:
        super().__init__(ref, engine)
        self.host = engine

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.host.answer(self.ref.digest, receive, send)

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        await self.host.work()
        return Proof(kind="weak", prompts=1, passed=self.ref.id not in self.host.machine.broken)

    async def detach(self) -> None:
        if self.ref.digest not in self.host.attached:
            self.host.machine.violations.append(f"{self.ref.id} was taken off twice")
            return
        self.host.attached.remove(self.ref.digest)
        await asyncio.sleep(self.host.machine.pace_s)


class PacedEngine(FakeEngine):
    """Takes as long for everything as its machine's pace says; a request as long as its body does."""

    def __init__(self, ref: ModelRef, machine: Machine) -> None:
        super().__init__(ref)
        self.machine = machine

    async def work(self) -> None:
        await asyncio.sleep(self.machine.pace_s)
        if self.dead or self.stopped:
            raise EngineStartFailed("the engine died")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(self.ref.digest, receive, send)

    async def answer(self, digest: str, receive: Receive, send: Send) -> None:
        await asyncio.sleep(float((await receive())["body"]))
        if self.stopped and not self.dead:
            self.machine.violations.append("an engine was ended under a request")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": digest.encode()})

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        await self.work()
        return Proof(kind="weak", prompts=1, passed=self.ref.id not in self.machine.broken and not self.turned_bad)

    async def attach(self, model: ModelRef) -> FakeFront:
        await self.work()
        if model.base is None or model.base.digest != self.ref.digest:
            self.machine.violations.append(f"{model.id} was put on {self.ref.id}")
        self.attached.append(model.digest)
        return PacedFront(model, self)

    async def stage(self, model: ModelRef, reference: Reference | None, weights: Path | None = None) -> str | None:
        await asyncio.sleep(self.machine.pace_s)
        return await super().stage(model, reference, weights)

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        await asyncio.sleep(self.machine.pace_s)
        if self.dead or model.id in self.machine.broken:
            self.ref = ModelRef(id="mixture", path="", digest="")
            raise EngineReloadFailed(f"{model.id}: a tensor is missing")
        await super().reload(model, weights)
        own = self.weights.decode() or "sha256:"
        if not model.digest.startswith(own) or (own == "sha256:" and "pushed" in model.digest):
            self.machine.violations.append(f"{model.digest} has the weights of {own}")

    async def shutdown(self) -> None:
        await asyncio.sleep(self.machine.pace_s)
        self.stopped = True


class Unwatched(Watchdog):
    def look_at(self, *slots: Slot) -> None:
        pass


class WatchedGate(Gate):
    """Notes in the switches that run which slots were the active model's meanwhile."""

    def __init__(self, max_held: int, hold_timeout_s: float, asked: Sequence["Asked"]) -> None:
        super().__init__(max_held, hold_timeout_s)
        self._asked = asked

    def open(self, slot: Served) -> None:
        for each in self._asked:
            if each.ended_s == math.inf:
                each.were_active.add(slot.host)
        super().open(slot)


@dataclass(slots=True, eq=False)
class Asked:
    """A switch, and how it ended. `were_active`: slots that the active model was on at any time meanwhile."""

    request: ActivateRequest
    were_active: set[object]
    result: ActivateResult | None = None
    ended_s: float = math.inf

    def may_cut_off(self, host: Slot) -> bool:
        """Whether the docs have it end a request that was inside `host` before the switch was over."""
        request, result, was_active = self.request, self.result, host in self.were_active
        is_targets = host.model.digest == (request.model.base or request.model).digest
        if request.in_flight == "abort" and (was_active or (is_targets and request.method == "restart")):
            return True
        if request.in_flight == "keep":  # whoever was frozen, where the old tensors do not go back either
            return was_active and (result is None or result.status == "failed")
        if result is None or result.method != "blue_green" or request.timeout_s >= LONG_S:
            return False
        return was_active if result.status == "activated" else is_targets  # which was loaded and failed its proof


@dataclass(slots=True, eq=False)
class AskedPush:
    """A push, and how it ended."""

    request: PushRequest
    result: Pushed | None = None
    ended_s: float = math.inf

    def may_cut_off(self, host: Slot) -> bool:
        """Whether the docs have it end a request that was inside `host` before it was over."""
        if host is not self.request.slot:
            return False
        lost = self.result is None or not self.result.restored
        return self.request.in_flight == "abort" or (self.request.in_flight == "keep" and lost)


@dataclass(slots=True, eq=False)
class AskedPause:
    """A pause, from its beginning until it is over."""

    request: PauseRequest
    ended_s: float = math.inf

    def may_cut_off(self, host: Slot) -> bool:
        """Whether the docs have it end a request that was inside `host` when it began."""
        return host is self.request.slot and self.request.in_flight == "abort"


class Interleavings(RuleBasedStateMachine):
    @initialize(
        max_loaded=st.integers(1, 3),
        places=st.integers(1, 4),
        load_on_request=st.booleans(),
        turn_wait_s=st.sampled_from([0.0, 3.0, 15.0]),
        first=st.sampled_from(MODELS),
    )
    def prepare(self, max_loaded: int, places: int, load_on_request: bool, turn_wait_s: float, first: ModelRef) -> None:
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.machine = Machine(places)
        self.machine.max_loaded = max_loaded
        self.asked: list[Asked] = []
        self.gate = WatchedGate(64, 20.0, self.asked)
        self.pool = self.machine.pool = Pool(
            self.gate,
            self.machine.start,
            8.0,
            FreeBytes(self.machine.free_bytes, ENGINE_BYTES),
            max_loaded=max_loaded,
            load_wait_s=20.0,
            turn_wait_s=turn_wait_s,
            cool_down_s=0.0,
            poll_s=2.0,
            watchdog=Unwatched(),
        )
        self.router = Router(self.gate, self.pool, Register(*MODELS), load_on_request=load_on_request, max_held=64)
        self.writer = self.loop.create_task(self.pool.run())
        self.tasks: set[asyncio.Task[Any]] = set()
        self.clients: list[FakeClient] = []
        self.switches = 0
        self.asked_pushes: list[AskedPush] = []
        self.pushes = self.pushed = self.pauses = 0
        self.asked_pauses: list[AskedPause] = []
        self.committed: str | None = None
        self.activate(first, "auto", "finish", LONG_S, 0.0, frozenset(), 0.1)

    @rule(model=models, method=st.sampled_from(["auto", "auto", "in_place", "blue_green", "restart"]),
          in_flight=st.sampled_from(["finish", "finish", "keep", "abort"]),
          timeout_s=st.sampled_from([1.0, LONG_S]), pace_s=paces_s, broken=broken, then=thens)  # fmt: skip
    def activate(
        self,
        model: ModelRef,
        method: Any,
        in_flight: Any,
        timeout_s: float,
        pace_s: float,
        broken: set[str],
        then: float,
    ) -> None:
        self.machine.pace_s, self.machine.broken = pace_s, set(broken)
        request = ActivateRequest(model=model, method=method, in_flight=in_flight, timeout_s=timeout_s)
        self._spawn(self._activate(request))
        self._go_on(then)

    async def _activate(self, request: ActivateRequest) -> None:
        self.switches += 1
        asked = Asked(request, {self.pool.loaded.active})
        self.asked.append(asked)
        try:
            asked.result = await self.pool.activate(request)
            self._end(asked.result)
        except GatewayError:  # refused, so it touched nothing
            self.asked.remove(asked)
        finally:
            asked.ended_s = self.loop.time()
            self.switches -= 1

    def _end(self, result: ActivateResult) -> None:
        if result.status == "activated":
            self.committed = result.id
        elif result.rolled_back_to is not None:
            base = next((each.base.id for each in MODELS if each.id == self.committed and each.base), None)
            assert result.rolled_back_to in (self.committed, base)
            self.committed = result.rolled_back_to

    @rule(kind=st.sampled_from(["good", "good", "torn", "NaN"]),
          in_flight=st.sampled_from(["finish", "finish", "keep", "abort"]),
          timeout_s=st.sampled_from([1.0, LONG_S]), pace_s=paces_s, broken=broken, then=thens)  # fmt: skip
    def push(self, kind: str, in_flight: Any, timeout_s: float, pace_s: float, broken: set[str], then: float) -> None:
        slot = self.pool.loaded.active
        if slot is None:
            return
        self.machine.pace_s, self.machine.broken = pace_s, set(broken)
        self.pushed += 1
        digest = f"sha256:pushed-{self.pushed}-{kind}"
        weights = StagedWeights()
        weights.path.write_bytes(digest.encode())
        model = slot.model.model_copy(update={"digest": digest})
        request = PushRequest(
            slot=slot,
            before=slot.model,
            model=model,
            files_digest="sha256:files",
            version=WeightsVersion(number=self.pushed),
            weights=weights,
            changed=1,
            tensors=1,
            in_flight=in_flight,
            timeout_s=timeout_s,
        )
        self._spawn(self._push(request, kind))
        self._go_on(then)

    async def _push(self, request: PushRequest, kind: str) -> None:
        self.pushes += 1
        asked = AskedPush(request)
        self.asked_pushes.append(asked)
        try:
            result = asked.result = await self.pool.push(request)
            assert result.error is not None or kind == "good"
            assert result.error is None or request.weights.descriptor < 0, "nobody gave its memory back"
        except GatewayError:
            assert request.weights.descriptor < 0, "nobody gave its memory back"
            self.asked_pushes.remove(asked)
        finally:
            asked.ended_s = self.loop.time()
            self.pushes -= 1

    @rule(in_flight=st.sampled_from(["finish", "keep", "abort"]), limit_s=st.sampled_from([1.0, 40.0]),
          timeout_s=st.sampled_from([1.0, LONG_S]), pace_s=paces_s, then=thens)  # fmt: skip
    def pause(self, in_flight: Any, limit_s: float, timeout_s: float, pace_s: float, then: float) -> None:
        slot = self.pool.loaded.active
        if slot is None:
            return
        self.machine.pace_s = pace_s
        self._spawn(self._pause(PauseRequest(slot, in_flight, limit_s, timeout_s)))
        self._go_on(then)

    async def _pause(self, request: PauseRequest) -> None:
        self.pauses += 1
        asked = AskedPause(request)
        self.asked_pauses.append(asked)
        try:
            await self.pool.pause(request)
            while self.pool.is_paused:
                await asyncio.sleep(0.5)
        except GatewayError:
            pass
        finally:
            asked.ended_s = self.loop.time()
            self.pauses -= 1

    @rule(then=thens)
    def resume(self, then: float) -> None:
        self._spawn(self.pool.resume())
        self._go_on(then)

    @rule(name=st.sampled_from(["active", *(each.id for each in MODELS)]), takes_s=st.sampled_from([0.0, 0.5, 30.0]),
          n=st.integers(1, 3), then=thens)  # fmt: skip
    def request(self, name: str, takes_s: float, n: int, then: float) -> None:
        for _ in range(n):
            client = FakeClient(str(takes_s).encode())
            self.clients.append(client)
            self._spawn(self._request(name, client))
        self._go_on(then)

    async def _request(self, name: str, client: FakeClient) -> None:
        body = (await client.receive())["body"]
        try:
            served = await self.router.enter(name, lambda: until_disconnected(client.receive))
            digest, entered_s = served.model.digest, self.loop.time()
            await served.serve(client.scope, replay(body, client.receive), client.send)
        except ClientDisconnected:
            assert client.left.is_set()
            return
        except ModelNotFound as error:
            raise AssertionError(f"{name} is registered") from error
        except NotLoaded:
            assert not self.router.load_on_request
            return
        except Unserved:
            return
        assert client.sent, "an answer, or a reason why there is none"
        if client.status == 200:
            assert client.headers[b"x-model-digest"] == digest.encode()
            assert name in ("active", client.headers[b"x-model-id"].decode())
        else:
            assert client.status == 503
            assert isinstance(served.host, Slot)
            assert served.dead or self._is_cut_off(served.host, entered_s), "its slot was ended under it"

    def _is_cut_off(self, host: Slot, entered_s: float) -> bool:
        asked: list[Asked | AskedPush | AskedPause] = [*self.asked, *self.asked_pushes, *self.asked_pauses]
        return any(each.may_cut_off(host) for each in asked if entered_s <= each.ended_s)

    @rule(model=models, wait=st.booleans(), pace_s=paces_s, broken=broken, then=thens)
    def load(self, model: ModelRef, wait: bool, pace_s: float, broken: frozenset[str], then: float) -> None:
        self.machine.pace_s, self.machine.broken = pace_s, set(broken)
        self._spawn(self._load(LoadRequest(model=model, wait=wait)))
        self._go_on(then)

    async def _load(self, request: LoadRequest) -> None:
        with contextlib.suppress(Unserved):
            await self.pool.load(request)

    @rule(name=st.sampled_from([each.id for each in MODELS]), then=thens)
    def unload(self, name: str, then: float) -> None:
        self._spawn(self.pool.unload(name))
        self._go_on(then)

    @rule(number=st.integers(0, 20), then=thens)
    def leave(self, number: int, then: float) -> None:
        if number < len(self.clients):
            self.clients.pop(number).left.set()
        self._go_on(then)

    @precondition(lambda self: self.machine.alive)
    @rule(number=st.integers(0, 4), then=thens)
    def kill(self, number: int, then: float) -> None:
        self.machine.alive[number % len(self.machine.alive)].dead = True
        self._go_on(then)

    @rule(places=st.integers(1, 4), then=thens)
    def resize(self, places: int, then: float) -> None:
        self.machine.places = max(places, len(self.machine.alive) + len(self.machine.starting))
        self._go_on(then)

    @invariant()
    def the_gate_is_open_on_what_is_active(self) -> None:
        if not hasattr(self, "loop"):
            return
        loaded, state, gate = self.pool.loaded, self.pool.snapshot(), self.gate.slot
        if gate is not None:
            assert gate is loaded.serving
            assert loaded.serving is not None
            host = loaded.serving.host
            assert state.active is not None
            assert state.active.id == loaded.serving.model.id
            assert (state.active == loaded.serving.model) == (host.version.number == 0)
            assert ("pushed" in host.model.digest) == (host.version.number > 0)
            assert isinstance(host.engine, FakeEngine)
            assert host.engine.ref.digest == host.model.digest
        if self.switches == 0:
            assert (state.active.id if state.active else None) == self.committed
            held = self.pushes > 0 or self.pauses > 0
            assert gate is loaded.serving or held, "it is held during a switch, a push or a pause alone"
        if isinstance(loaded.serving, Adapter):
            assert loaded.serving.host.adapters[loaded.serving.model.id] is loaded.serving

    @invariant()
    def one_engine_a_model(self) -> None:
        if not hasattr(self, "loop"):
            return
        hosts = self.pool.loaded.hosts
        _unique([slot.model.digest for slot in hosts])
        _unique([name for slot in hosts for name in slot.names])
        assert len(hosts) <= self.machine.max_loaded + (self.switches > 0)
        assert not self.machine.violations
        for slot in self.pool.loaded.others:
            assert slot.engine.ref.digest == slot.model.digest  # type: ignore[attr-defined]
            assert slot.phase == "ready"
            for adapter in slot.adapters.values():
                assert slot.dead or adapter.model.digest in slot.engine.attached  # type: ignore[attr-defined]

    @invariant()
    def nothing_crashed(self) -> None:
        if not hasattr(self, "loop"):
            return
        assert not self.writer.done()
        for task in [each for each in self.tasks if each.done()]:
            self.tasks.discard(task)
            task.result()

    def teardown(self) -> None:
        """Once nothing is wrong any more everybody has an answer, and what is active serves."""
        if not hasattr(self, "loop"):
            return
        self.machine.broken.clear()
        self.machine.places = 4
        self._run(asyncio.sleep(150.0))
        try:
            self.nothing_crashed()
            assert not self.tasks, "somebody waits for ever"
            self.the_gate_is_open_on_what_is_active()
            self.one_engine_a_model()
            assert not self.pool.loaded.leaving
            assert not any(slot.closed for slot in self.pool.loaded.hosts), "it takes no requests, and for nobody"
            ended = set(self.machine.engines) - {slot.engine for slot in self.pool.loaded.slots}
            assert all(engine.stopped for engine in ended if isinstance(engine, PacedEngine)), "nobody ended an engine"
            if self.committed is not None:
                client = FakeClient(b"0")
                self._run(self._request(self.committed, client))
                assert client.status == 200
        finally:
            self.writer.cancel()
            self._run(asyncio.gather(self.writer, *self.tasks, return_exceptions=True))
            self.loop.close()
        assert not self.machine.alive

    def _spawn(self, work: Any) -> None:
        self.tasks.add(self.loop.create_task(work))

    def _go_on(self, then: float) -> None:
        """So many turns of the loop (an integer), or so many seconds."""

        async def turns() -> None:
            for _ in range(int(then)):
                await asyncio.sleep(0)

        self._run(turns() if isinstance(then, int) else asyncio.sleep(then))

    def _run(self, work: Any) -> None:
        async def bounded() -> None:
            await work

        self.loop.run_until_complete(bounded())


def _unique(values: Sequence[str]) -> None:
    assert len(values) == len(set(values)), values


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=int(os.environ.get("INTERLEAVINGS", "80")),
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize="INTERLEAVINGS" not in os.environ,
    suppress_health_check=[*HealthCheck],
)
