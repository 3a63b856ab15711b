"""An engine that answers, hangs, dies or does not start, as told: the gateway's seam towards vLLM."""

import asyncio
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from gateway.errors import EngineReloadFailed, EngineStartFailed
from gateway.http.asgi import Message, Receive, Scope, Send
from gateway.serving.batch_share import BatchShare
from gateway.serving.gate import Gate
from gateway.serving.pool import Pool
from gateway.serving.router import Router
from gateway.serving.slot import Slot
from stepserve.contract import (
    BatchItem,
    BatchOutput,
    BatchSampling,
    LoadRequest,
    ModelRef,
    ModelTask,
    Placement,
    Proof,
    Reference,
    Signature,
    TextScore,
)
from stepserve.settings import Alias


def model(name: str, signature: Signature | None = None) -> ModelRef:
    return ModelRef(id=name, path=f"/models/{name}", digest=f"sha256:{name}", signature=signature)


def signature(**changed: str | int | None) -> Signature:
    same: dict[str, str | int | None] = {
        "architecture": "Qwen3ForCausalLM",
        "config_sha": "c",
        "tokenizer_sha": "t",
        "tensors_sha": "w",
        "weights_bytes": 1000,
    }
    return Signature.model_validate(same | changed)


def reference(name: str) -> Reference:
    """One that only the model of that name fulfils."""
    return Reference(kind="reference", prompts=[name], logprobs=[[-1.0]])


class FreeBytes:
    """Memory of one device: an engine takes its weights and `engine_bytes`. What leaves might make room."""

    def __init__(self, free_bytes: Callable[[], int], engine_bytes: int = 100) -> None:
        self._free_bytes = free_bytes
        self._engine_bytes = engine_bytes

    async def watch(self) -> None:
        pass

    async def study(self, model: ModelRef) -> None:
        pass

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        if gone:
            return None
        if model.signature is None:
            return "the size of the candidate is not known"
        needed, free = model.signature.weights_bytes + self._engine_bytes, self._free_bytes()
        return f"a second engine needs {needed} bytes and {free} are free" if needed > free else None

    def leavers(self, model: ModelRef, slots: Sequence[Slot], gone: Collection[Slot] = ()) -> list[Slot] | None:
        if self.shortage(model, gone) is None:
            return []
        return list(slots) if slots and model.signature is not None else None

    def more(self, model: ModelRef) -> int:
        return 0


class FakeFront:
    """An adapter on a fake engine: answers with its own id."""

    def __init__(self, ref: ModelRef, engine: "FakeEngine") -> None:
        self.ref = ref
        self.engine = engine

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        self.engine.entered.set()
        await self.engine.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.ref.digest.encode() + b":" + body})

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        return Proof(kind="weak", prompts=1, passed=self.ref.id not in self.engine.cannot_take)

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        return [BatchOutput(text=self.ref.id) for _ in items]

    async def detach(self) -> None:
        await self.engine.may_detach.wait()
        self.engine.attached.remove(self.ref.digest)


class FakeEngine:
    """Answers every request with the model's id once `release` is set (it is, unless cleared)."""

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self.weights = b""
        self.deaf = False  # whatever it loads, it answers as before
        self.share = BatchShare(64, 8)
        self.dead = False
        self.stopped = False
        self.sound = True
        self.frozen = self.frozen_at_proof = False
        self.dies_when_frozen = False
        self.reloads = 0
        self.progress = 0
        self.batched = 0  # items
        self.nats = 1.0  # a word of a text that is scored
        self.cleared = 0
        self.not_finite = 0
        self.turned_bad = False
        self.proofs: list[str] = []
        self.may_prove = asyncio.Event()
        self.may_prove.set()
        self.cannot_take: set[str] = set()
        self.max_adapters = 2
        self.task: ModelTask = "generate"
        self.attached: list[str] = []
        self.status = 200
        self.says: bytes | None = None  # in place of the model's id and the body
        self.content_type = b"application/json"
        self.release = asyncio.Event()
        self.may_detach = asyncio.Event()
        self.may_detach.set()
        self.release.set()
        self.entered = asyncio.Event()
        self.compiles = asyncio.Event()
        self.compiles.set()
        self.staging = asyncio.Event()
        self.may_stage = asyncio.Event()
        self.may_stage.set()
        self.staged: tuple[str, Path | None] | None = None
        self.cannot_stage: str | None = None
        self.stage_defect: Exception | None = None
        self.taken_over = False
        self.reloading = asyncio.Event()
        self.may_reload = asyncio.Event()
        self.may_reload.set()

    reload_obstacle: str | None = None
    other_nodes: int = 0
    placement: Placement | None = None
    model_runner: str | None = "V1"
    world_size = 1
    dtype = "torch.bfloat16"
    logprobs_mode = "raw_logprobs"

    async def forget_prefixes(self, *, of_running: bool, of_connector: bool) -> bool:
        return of_running or self.release.is_set()

    async def clear_cache(self) -> None:
        self.cleared += 1

    @property
    def max_model_len_tokens(self) -> int:
        return 512

    @property
    def max_chars_per_token(self) -> int:
        return 12

    async def attach(self, model: ModelRef) -> FakeFront:
        self.attached.append(model.digest)
        return FakeFront(model, self)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        self.entered.set()
        if self.content_type == b"text/event-stream; charset=utf-8":
            await self._start(send)
            await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
            await self.release.wait()
        else:
            await self.release.wait()
            await self._start(send)
        said = self.ref.id.encode() + b":" + body if self.says is None else self.says
        await send({"type": "http.response.body", "body": said})

    async def _start(self, send: Send) -> None:
        headers = [(b"content-type", self.content_type)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})

    def openapi(self) -> dict[str, Any]:
        return {"paths": {}}

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        self.proofs.append("gentle" if gently else "full")
        self.frozen_at_proof = self.frozen
        await self.may_prove.wait()
        if not self.sound:
            raise EngineStartFailed("died at its first forward pass")
        if reference is None:
            return Proof(kind="weak", prompts=1, passed=not self.turned_bad, reason="NaN" if self.turned_bad else None)
        right = self.ref.id in (reference.prompts or [])
        return Proof(kind="reference", prompts=1, mean_abs_diff=0.0 if right else 9.0, tolerance=0.25, passed=right)

    async def alive(self) -> None:
        await self.release.wait()

    async def structured_alive(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self.compiles.wait()

    async def freeze(self) -> None:
        if self.dies_when_frozen:
            self.dead = True
            raise EngineReloadFailed("the engine died when it was to pause")
        self.frozen = True

    async def resume(self) -> None:
        self.frozen = False

    async def answers(self) -> list[list[float]]:
        return [[-float(0 if self.deaf else zlib.crc32(self.weights)), -1.0]]

    async def stage(self, model: ModelRef, reference: Reference | None, weights: Path | None = None) -> str | None:
        self.staging.set()
        await self.may_stage.wait()
        if self.stage_defect is not None:
            raise self.stage_defect
        if self.cannot_stage is not None:
            return self.cannot_stage
        self.staged = (model.id, weights)
        return None

    async def unstage(self) -> None:
        self.staged = None

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        self.taken_over, self.staged = self.staged == (model.id, weights), None
        if model.id == "defect":
            raise ZeroDivisionError("nobody thought of this")
        self.reloading.set()
        await self.may_reload.wait()
        if self.dead or model.id in self.cannot_take:
            self.ref = ModelRef(id="mixture", path="", digest="")
            raise EngineReloadFailed(f"{model.id}: a tensor is missing")
        self.weights = weights.read_bytes() if weights is not None else b""
        if b"torn" in self.weights:
            self.ref = ModelRef(id="mixture", path="", digest="")
            raise EngineReloadFailed("a tensor cannot be copied")
        self.turned_bad = b"NaN" in self.weights
        self.ref = model
        self.reloads += 1

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        self.entered.set()
        await self.release.wait()
        self.batched += len(items)
        return [BatchOutput(text=self.ref.id, continuations=self._scores(item)) for item in items]

    def _scores(self, item: BatchItem) -> list[TextScore]:
        texts = item.continuations.texts if item.continuations is not None else []
        return [TextScore(logprob=-self.nats * len(text.split()), tokens=len(text.split())) for text in texts]

    async def shutdown(self) -> None:
        self.stopped = True


class FakeStarter:
    """Starts engines, keeps them for the test to look at, and refuses those it was told to."""

    def __init__(self) -> None:
        self.started: list[FakeEngine] = []
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.unsound: set[str] = set()
        self.unfit: set[str] = set()  # adapters that fail their proof on engines started from now on
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self, ref: ModelRef) -> FakeEngine:
        self.asked.append(ref.id)
        self.starting.set()
        await self.may_start.wait()
        if ref.id in self.broken:
            raise EngineStartFailed(f"{ref.id} has no such architecture")
        engine = FakeEngine(ref)
        engine.cannot_take = set(self.unfit)
        engine.sound = ref.id not in self.unsound
        self.started.append(engine)
        return engine


class FakeClient:
    """One ASGI request and what came back of it."""

    def __init__(self, body: bytes = b"{}", path: str = "/v1/chat/completions") -> None:
        self.scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._bodies = [body]

    async def receive(self) -> Message:
        if self._bodies:
            return {"type": "http.request", "body": self._bodies.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


class Register:
    """Knows the models it was told of."""

    def __init__(self, *models: ModelRef) -> None:
        self.models = {each.id: each for each in models}
        self.references: dict[str, Reference] = {}
        self.asked: list[str] = []

    async def find(self, name: str) -> LoadRequest | None:
        self.asked.append(name)
        found = self.models.get(name)
        return LoadRequest(model=found, reference=self.references.get(name)) if found else None

    async def names(self) -> list[str]:
        return list(self.models)


class FakeKeeper:
    """What changes models and names, as far as it was told: `told` has each call."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    async def unload(self, name: str) -> None:
        self.told.append(("unload", name))

    def keep_alive(self, name: str, keep_alive_s: float) -> None:
        self.told.append(("keep_alive", name, keep_alive_s))

    async def keep(self, name: str, alias: Alias) -> bool:
        self.told.append(("keep", name, alias))
        return True

    async def forget(self, name: str) -> None:
        self.told.append(("forget", name))


def router_over(gate: Gate, register: Register | None = None) -> Router:
    """Over a gate that the test turns; nothing else is loaded, or can be."""
    pool = Pool(gate, FakeStarter().start, 1.0, FreeBytes(lambda: 0))
    return Router(gate, pool, register or Register(), load_on_request=True, max_held=8)
