"""A slot: one loaded checkpoint, its engine, and the requests inside it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import EngineReloadFailed, ProofFailed, Unserved
from gateway.http.asgi import App, Receive, Scope, Send
from gateway.http.error_rendering import Headers
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.metrics import ACROSS_VERSIONS
from gateway.serving.adapter import Adapter, AdapterEngine, identity_of
from gateway.serving.batch_share import BatchShare
from gateway.serving.soundness import Soundness
from gateway.serving.use import Use
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import (
    BatchItem,
    BatchOutput,
    BatchSampling,
    InFlightPolicy,
    ModelRef,
    ModelTask,
    Placement,
    Proof,
    Reference,
    SlotPhase,
    SlotState,
    WeightsVersion,
)

log = logging.getLogger(__name__)

_RETRY_AFTER_ABORT_S = 5.0
_ABORT_TIMEOUT_S = 5.0


class Engine(AdapterEngine, Protocol):
    """What a slot needs of an engine; `gateway.engine.engine.Engine` is the real one."""

    @property
    def app(self) -> App: ...

    @property
    def dead(self) -> bool: ...

    @property
    def share(self) -> BatchShare: ...

    @property
    def reload_obstacle(self) -> str | None:
        """Why its model cannot take another checkpoint's tensors in place; None when it can."""
        ...

    @property
    def task(self) -> ModelTask: ...

    @property
    def placement(self) -> Placement | None:
        """Which cards it is on; None without any."""
        ...

    @property
    def other_nodes(self) -> int:
        """On how many other machines ranks of it are."""
        ...

    @property
    def model_runner(self) -> str | None:
        """Which of the engine's implementations computes."""
        ...

    async def prove(
        self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False
    ) -> Proof: ...

    @property
    def not_finite(self) -> int:
        """How many answers were refused because their numbers were not finite."""
        ...

    @property
    def progress(self) -> int:
        """Grows with every step that the engine makes for somebody."""
        ...

    @property
    def world_size(self) -> int:
        """How many processes compute."""
        ...

    @property
    def dtype(self) -> str:
        """What the model computes in, as torch names it."""
        ...

    async def alive(self) -> None: ...

    async def structured_alive(self, timeout_s: float) -> None: ...

    @property
    def logprobs_mode(self) -> str:
        """vLLM's name of what the log-probabilities in answers are."""
        ...

    async def freeze(self) -> None:
        """Requests inside stay and wait until `resume`; what is asked for a proof is answered."""
        ...

    async def resume(self) -> None: ...

    async def forget_prefixes(self, *, of_running: bool, of_connector: bool) -> bool:
        """Whether the prefix cache is empty now."""
        ...

    async def stage(self, model: ModelRef, reference: Reference | None, weights: Path | None = None) -> str | None:
        """Makes ready, while it answers, what a reload and its proof need; why that is not possible, else None."""
        ...

    async def unstage(self) -> None: ...

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        """`weights`: a file of tensors that take the place of those of the model's own files."""
        ...

    async def answers(self) -> list[list[float]]:
        """What the model says of a few fixed prompts, as log-probabilities: [n_prompts][n_tokens - 1]."""
        ...

    async def clear_cache(self) -> None: ...

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]: ...

    async def shutdown(self) -> None: ...


StartEngine = Callable[[ModelRef], Awaitable[Engine]]
StartPlaced = Callable[[ModelRef, Placement | None], Awaitable[Engine]]  # on those cards, or without any


class Slot:
    """Requests enter by `serve` (ASGI) or `batch`; `emptied` waits until the last has left."""

    def __init__(
        self, model: ModelRef, engine: Engine, load_duration_s: float, reference: Reference | None = None
    ) -> None:
        self.engine = engine
        self.adapters: dict[str, Adapter[Slot]] = {}
        self.soundness = Soundness(lambda: engine.not_finite)
        self.weights: StagedWeights | None = None
        self._answers: dict[asyncio.Task[None], _Answer] = {}
        self.become(model, reference)
        self.load_duration_s = load_duration_s
        self.phase: SlotPhase = "ready"
        self._condemned = asyncio.Event()
        self._suspensions = 0
        self._frozen_by_one = asyncio.Lock()
        self._reloads = False
        self._is_frozen = False
        self._batches: dict[asyncio.Task[Any], bool] = {}  # whether each was given up
        self.use = Use()
        self.closed = False  # it is another model's turn: the pool lets no more requests in
        self._in_flight = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def become(
        self,
        model: ModelRef,
        reference: Reference | None,
        version: WeightsVersion | None = None,
        weights: StagedWeights | None = None,
    ) -> None:
        """From now on this slot answers as `model`; its engine has taken the tensors already.

        `weights`: where they are, of a pushed `version`; without, they are those of the model's files. Adapters are for
        one content of the base alone.
        """
        self.adapters = {name: each for name, each in self.adapters.items() if _fits(each, model)}
        if self.weights is not None and self.weights is not weights:
            self.weights.close()
        self.model = model
        self.reference = reference
        self.version = version or WeightsVersion()
        self.weights = weights
        self.identity_headers = identity_of(model, self.version)
        for answer in self._answers.values():
            answer.goes_on()

    @classmethod
    async def load(
        cls, model: ModelRef, start_engine: StartEngine, reference: Reference | None
    ) -> tuple["Slot", Proof]:
        """Starts an engine and probes it before anyone can reach it. Raises EngineStartFailed or ProofFailed."""
        started = _now_s()
        engine = await start_engine(model)
        engine_up = _now_s()
        try:
            proof = await engine.prove(reference)
            if not proof.passed:
                raise ProofFailed(model.id, proof)
        except BaseException:
            await engine.shutdown()
            raise
        now = _now_s()
        log.info("loaded %s: engine %.1f s, proof %.1f s", model.id, engine_up - started, now - engine_up)
        slot = cls(model, engine, now - started, reference)
        slot.use.load(now, slot.load_duration_s)
        slot.soundness.note(proof)
        return slot, proof

    @property
    def host(self) -> "Slot":
        """The slot that an answer comes from; an adapter's is its base's."""
        return self

    @property
    def prover(self) -> Engine:
        return self.engine

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def dead(self) -> bool:
        return self._condemned.is_set() or self.engine.dead

    def condemn(self) -> None:
        """Takes the engine for dead, for good: it hangs, or nobody knows what is in it."""
        self._condemned.set()
        self._empty.set()  # whoever is inside is served no more, so nobody waits for them

    async def condemned(self) -> None:
        """Returns when it is: what was asked of its engine may never be answered."""
        await self._condemned.wait()

    @property
    def suspended(self) -> bool:
        """Whether the engine is busy with a switch and need not answer a watchdog."""
        return self._suspensions > 0

    async def prove(
        self,
        reference: Reference | None,
        *,
        max_tokens: int | None,
        gently: bool,
        adapter: "Adapter[Slot] | None" = None,
    ) -> Proof:
        """As Engine.prove, of the model as it serves: a switch that drains this slot waits for it."""
        with self._counted():
            prover = self.engine if adapter is None else adapter.front
            return await prover.prove(reference, max_tokens=max_tokens, gently=gently)

    async def freeze(self) -> None:
        """Requests inside stay and are not answered until `thaw`. Raises EngineReloadFailed."""
        async with self.reloading():
            await self.engine.freeze()
            self._is_frozen = True

    async def thaw(self) -> None:
        """Nothing happens where nothing is frozen. Raises EngineReloadFailed."""
        async with self.reloading():
            if self._is_frozen:
                await self.engine.resume()
            self._is_frozen = False

    async def cleanse(self) -> None:
        """Clears the KV cache; requests that run begin theirs anew. An engine that dies or hangs of it is logged.

        Nothing happens during a reload, which clears what has to be by itself, nor while requests are frozen, whose
        cache is empty.
        """
        if not self._may_cleanse():
            return
        try:
            async with self._frozen_by_one:
                if not self._may_cleanse():  # frozen since this waited for its turn
                    return
                with self.busy_switching():
                    await self.engine.freeze()
                    try:
                        await self.engine.clear_cache()
                    finally:
                        await self.engine.resume()
        except EngineReloadFailed as error:
            log.error("the cache of %s could not be cleared: %s", self.model.id, error)

    def _may_cleanse(self) -> bool:
        return not (self._reloads or self._is_frozen)

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """`busy_switching` for who freezes and resumes the engine: nobody else does so meanwhile."""
        async with self._frozen_by_one:
            self._reloads = True
            try:
                with self.busy_switching():
                    yield
            finally:
                self._reloads = False

    @contextmanager
    def busy_switching(self) -> Iterator[None]:
        """What is done inside has deadlines of its own; until it is over the engine is not watched."""
        self._suspensions += 1
        try:
            yield
        finally:
            self._suspensions -= 1

    @property
    def names(self) -> list[str]:
        """The ids that `answering` knows."""
        return [self.model.id, *self.adapters]

    def answering(self, name: str) -> "Slot | Adapter[Slot] | None":
        """Who on this engine answers to that id: the slot itself or an adapter."""
        return self if name == self.model.id else self.adapters.get(name)

    def state(self, *, active: bool) -> SlotState:
        return SlotState(
            model=self.model,
            phase="dead" if self.dead else "draining" if self.closed else self.phase,
            health=self.soundness.health,
            fault=self.soundness.fault,
            proved_at=self.soundness.proved_at,
            active=active,
            in_flight=self._in_flight,
            load_duration_s=round(self.load_duration_s, 3),
            max_model_len_tokens=self.engine.max_model_len_tokens,
            task=self.engine.task,
            model_runner=self.engine.model_runner,
            version=self.version,
            placement=self.engine.placement,
        )

    async def emptied(self, timeout_s: float) -> bool:
        """Waits until no request is inside, or none that can be served; False when some are after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def drained(self, in_flight: InFlightPolicy, timeout_s: float) -> bool:
        """As `emptied`, of a slot whose requests are ended first where `in_flight` says so."""
        self.phase = "draining"
        if self.dead:
            return True
        if in_flight == "abort":
            await self.abort_requests()
        return await self.emptied(timeout_s)

    async def abort_requests(self) -> int:
        """Ends every request inside with an error that its client can see; returns how many there were.

        Batches end only where the engine is dead: of a hung one they would wait for ever.
        """
        answers = dict(self._answers)
        if self.dead:
            self.end_batches()
        for task, answer in answers.items():
            if not answer.aborted:  # else it is telling its client already
                answer.aborted = True
                task.cancel()
        await self.emptied(_ABORT_TIMEOUT_S)
        return len(answers)

    def end_batches(self) -> None:
        """Every batch inside ends with Unserved: whoever asked it asks again."""
        for batch, ended in self._batches.items():
            if not ended:
                self._batches[batch] = True
                batch.cancel()

    async def shutdown(self) -> None:
        self.phase = "stopped"
        self.end_batches()  # an engine that has been shut down answers them no more, and says nothing
        if self.weights is not None:
            self.weights.close()
        await self.engine.shutdown()

    async def serve(self, scope: Scope, receive: Receive, send: Send, adapter: "Adapter[Slot] | None" = None) -> None:
        """Hands one request to vLLM's own app, and puts this slot's identity, or the adapter's, on the answer."""
        task = asyncio.current_task()
        assert task is not None
        identity = self.identity_headers if adapter is None else adapter.identity_headers
        app = self.engine.app if adapter is None else adapter.front.app
        response = tracked(send, scope)
        answer = self._answers[task] = _Answer(self, response, identity)
        try:
            with self._counted(), self.engine.share.interactive():
                await app(scope, receive, response)
        except asyncio.CancelledError:
            if not answer.aborted:
                raise
            task.uncancel()
            await answer.fail()
        except Exception:
            if not self.dead:
                raise
            await answer.fail()
        finally:
            response.objection = None  # a cycle would keep all of the request until the collector comes by
            del self._answers[task]

    async def batch(
        self, items: Sequence[BatchItem], sampling: BatchSampling, adapter: "Adapter[Slot] | None" = None
    ) -> list[BatchOutput]:
        """Answers a batch at low priority. Raises Unserved when the engine dies meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._batches[task] = False
        try:
            with self._counted():
                return await (self.engine if adapter is None else adapter.front).batch(items, sampling)
        except asyncio.CancelledError:
            if not self._batches[task]:
                raise
            task.uncancel()
            how = "died" if self.dead else "was ended"
            raise Unserved(f"The engine {how} during this batch; ask again.", _RETRY_AFTER_ABORT_S) from None
        finally:
            del self._batches[task]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        entered_s = _now_s()
        self.use.come(entered_s)
        self._in_flight += 1
        if not self._condemned.is_set():
            self._empty.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            self.use.leave(_now_s(), entered_s, last=not self._in_flight)
            if not self._in_flight:
                self._empty.set()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _fits(adapter: Adapter[Slot], model: ModelRef) -> bool:
    return adapter.model.base is not None and adapter.model.base.digest == model.digest


class _Answer:
    """One request inside. A failure of the slot is never passed on as vLLM words it."""

    def __init__(self, slot: Slot, response: TrackedSend, identity_headers: Headers) -> None:
        self.aborted = False
        self._slot = slot
        self._response = response
        self._model_id, self._version = slot.model.id, slot.version.number
        self._last = self._version
        response.headers.update(identity_headers)
        response.objection = self._objection

    async def fail(self) -> None:
        """Tells the client that the slot gave its request up."""
        await self._response.fail(self._reason())

    def goes_on(self) -> None:
        """What comes from here on was computed with other weights. A stream has sent its headers by now."""
        slot = self._slot
        if slot.version.number != self._last and slot.model.id == self._model_id:
            self._last = slot.version.number
            ACROSS_VERSIONS.inc()
            self._response.comment(f"x-model-version: {self._last}")

    def _objection(self, status: int) -> Unserved | None:
        """Asked when the answer begins: whole ones do so at their end, when it is known which weights made them."""
        slot = self._slot
        if slot.version.number != self._version and slot.model.id == self._model_id:
            self._response.headers[b"x-model-versions"] = f"{self._version}-{slot.version.number}".encode()
        return self._reason() if self.aborted or (status >= 500 and self._slot.dead) else None

    def _reason(self) -> Unserved:
        if self._slot.dead:
            return Unserved("The engine died during this request and is being restarted.", _RETRY_AFTER_ABORT_S)
        return Unserved("The request was aborted by a switch to another checkpoint.", _RETRY_AFTER_ABORT_S)


Loaded = Slot | Adapter[Slot]
"""Answers under an id of its own: a slot, or an adapter on one."""
