"""A gateway without engines: a real server on a real Unix socket that speaks the private contract as it is told to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from stepserve.canary import (
    GATEWAY_CANARY_ANSWERS_PATH,
    GATEWAY_CANARY_PATH,
    CanaryAnswer,
    CanaryAnswers,
    CanaryArm,
    CanaryGuard,
    CanaryJudged,
    CanaryOrder,
    CanaryReport,
    CanaryState,
    CanaryVerdict,
    CanaryVerdicts,
)
from stepserve.contract import (
    GATEWAY_ACTIVATE_PATH,
    GATEWAY_ASK_PATH,
    GATEWAY_BATCH_PATH,
    GATEWAY_CAPABILITIES_PATH,
    GATEWAY_CHECK_ENGINE_PATH,
    GATEWAY_LOAD_PATH,
    GATEWAY_PROVE_PATH,
    GATEWAY_STATE_PATH,
    GATEWAY_UNLOAD_PATH,
    GATEWAY_USAGE_PATH,
    ActivateRequest,
    ActivateResult,
    AskItem,
    AskOutput,
    AskRequest,
    AskResult,
    BatchItem,
    BatchOutput,
    BatchRequest,
    BatchResult,
    Capabilities,
    CheckedEngine,
    CheckEngineRequest,
    EngineDeath,
    FailedLoad,
    GatewayState,
    JobUsage,
    Loaded,
    LoadRequest,
    ModelRef,
    ModelUsage,
    Proof,
    ProveRequest,
    SlotState,
    UnloadRequest,
    UsageReport,
    WeightsVersion,
)
from stepserve.fleet import GATEWAY_TAKE_PATH, KeptVersion
from stepserve.request_id import JOB_ID_HEADER
from stepserve.serving_report import GATEWAY_SERVING_PATH, ServingReport
from tests.integration.serving import serving


class FakeGateway:
    """`active` is what it serves. Set `fail_with` and the next candidates fail; clear `may_switch` and they hang."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.boot = 0
        self.server: uvicorn.Server | None = None
        self.active: ModelRef | None = None
        self.pushed = 0  # the version of the active model's weights
        self.pushed_digest = ""
        self.taken: list[KeptVersion] = []
        self.switching_to: str | None = None
        self.failed_loads: list[FailedLoad] = []
        self.deaths: list[EngineDeath] = []
        self.fail_with: str | None = None
        self.capabilities = Capabilities(
            device="cpu",
            memory_bytes=8_000_000_000,
            architectures=["Qwen3ForCausalLM"],
            model_types=["qwen3", "helium"],
            quantize={"fp16": "float16", "q8": "fp8_per_channel"},
            prequantized=["gptq", "fp8"],
        )
        self.engines_checked: list[CheckEngineRequest] = []
        self.refuse_engines_with: str | None = None
        self.proof: Proof | None = None
        self.has_room_for: set[str] = set()  # ids that it loads beside the active one
        self.beside: dict[str, ModelRef] = {}
        self.refuse_switches_with: tuple[int, str, str] | None = None
        self.switch_asked = asyncio.Event()
        self.may_switch = asyncio.Event()
        self.may_switch.set()
        self.activated: list[str] = []
        self.asked: list[ActivateRequest] = []
        self.proved: list[ProveRequest] = []
        self.batches: list[BatchRequest] = []
        self.refuse_batches_with: tuple[int, str] | None = None
        self.answer: Callable[[BatchItem], BatchOutput] = lambda _: BatchOutput(text="42", finish_reason="stop")
        self.answers: dict[str, Callable[[BatchItem], BatchOutput]] = {}  # by model, in place of `answer`
        self.reply: Callable[[AskItem], AskOutput] = lambda _: AskOutput(status=200, body={})
        self.before_reply: Callable[[AskItem], Awaitable[None]] | None = None
        self.batch_takes_s = 0.0
        self.before_batch: Callable[[BatchRequest], Awaitable[None]] | None = None
        self.headers: list[dict[str, str]] = []  # of each batch
        self.served = 0  # requests
        self.first_token_counts = [0, 0, 0]  # within 0.1 s, within 1 s, later
        self.canary_states: list[CanaryState] = ["passed"]
        self.canary_requests = 10  # of each side
        self.canaries: list[CanaryOrder] = []
        self.canaries_ended: list[str] = []
        self.canary_answers: list[CanaryAnswer] = []  # for the judge
        self.canary_verdicts: list[CanaryVerdict] = []
        self.canary_trouble: str | None = None
        self.used_items: dict[str, int] = {}  # by job
        self.on_state: Callable[[], None] = lambda: None
        self.hold_states: asyncio.Event | None = None
        self.on_answer: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves until left; a second time it is the same gateway after a restart, with nothing loaded."""
        self.boot += 1
        self.socket_path.unlink(missing_ok=True)
        self.socket_path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket_path))
        listener.listen(64)
        try:
            async with serving(self._app(), listener, at_once=True, lifespan="off", loop="asyncio") as self.server:
                yield
        finally:
            self.socket_path.unlink(missing_ok=True)
            self.active = None

    def cut_off(self) -> None:
        """Ends its connections as the kernel does when it is killed."""
        assert self.server is not None, "it runs"
        for connection in list(self.server.server_state.connections):
            assert connection.transport is not None
            connection.transport.abort()

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get(GATEWAY_STATE_PATH)
        async def state() -> GatewayState:
            self.on_state()
            answer = self._state()
            if self.hold_states is not None:
                await self.hold_states.wait()
            return answer

        @app.get(GATEWAY_USAGE_PATH)
        async def usage() -> UsageReport:
            return self._usage()

        @app.get(GATEWAY_SERVING_PATH)
        async def served() -> ServingReport:
            return ServingReport(
                boot_id=str(self.boot),
                active=self.active.id if self.active else None,
                version=self.pushed,
                requests=self.served,
                running=1,
                waiting=2,
                tokens={self.active.id: 10 * self.served} if self.active else {},
                first_token_bounds_s=[0.1, 1.0],
                first_token_counts=self.first_token_counts,
                deaths=self.deaths,
            )

        @app.get(GATEWAY_CAPABILITIES_PATH)
        async def capabilities() -> Capabilities:
            return self.capabilities

        @app.post(GATEWAY_CHECK_ENGINE_PATH)
        async def check_engine(request: CheckEngineRequest) -> CheckedEngine:
            self.engines_checked.append(request)
            return CheckedEngine(refusal=self.refuse_engines_with)

        @app.post(GATEWAY_ACTIVATE_PATH, response_model=None)
        async def activate(request: ActivateRequest) -> Response:
            return await self._activate(request)

        @app.post(GATEWAY_TAKE_PATH, response_model=None)
        async def take(kept: KeptVersion) -> Response:
            return await self._take(kept)

        @app.post(GATEWAY_LOAD_PATH, response_model=None)
        async def load(request: LoadRequest) -> Response:
            if request.model.id not in self.has_room_for:
                return _refuse(503, "no_room", f"{request.model.id} has no room")
            self.beside[request.model.id] = request.model
            return JSONResponse(Loaded(id=request.model.id, loaded=True).model_dump())

        @app.post(GATEWAY_PROVE_PATH, response_model=None)
        async def prove(request: ProveRequest) -> Response:
            self.proved.append(request)
            if self.active is None or self.active.digest != request.model.digest:
                return _refuse(409, "switch_in_progress", "another model is active")
            return JSONResponse((self.proof or Proof(kind="weak", prompts=3, passed=True)).model_dump())

        @app.post(GATEWAY_UNLOAD_PATH)
        async def unload(request: UnloadRequest) -> Loaded:
            self.beside.pop(request.id, None)
            return Loaded(id=request.id, loaded=False)

        @app.post(GATEWAY_BATCH_PATH, response_model=None)
        async def batch(request: BatchRequest, http: Request) -> Response:
            self.headers.append(dict(http.headers))
            job = http.headers.get(JOB_ID_HEADER, "")
            self.used_items[job] = self.used_items.get(job, 0) + len(request.items)
            await asyncio.sleep(self.batch_takes_s)
            if self.before_batch is not None:
                await self.before_batch(request)
            return self._batch(request)

        @app.post(GATEWAY_CANARY_PATH, response_model=None)
        async def canary(order: CanaryOrder) -> Response:
            return JSONResponse(self._canary(order).model_dump())

        @app.post(GATEWAY_CANARY_ANSWERS_PATH)
        async def judged(said: CanaryVerdicts) -> CanaryAnswers:
            self.canary_verdicts += said.verdicts
            self.canary_trouble = said.trouble
            told, self.canary_answers = self.canary_answers[: said.wanted], self.canary_answers[said.wanted :]
            if said.wanted and not told:
                await asyncio.sleep(0.05)  # the real one waits longer, and for the first answer
            return CanaryAnswers(answers=told)

        @app.delete(GATEWAY_CANARY_PATH + "/{canary_id}", status_code=204, response_model=None)
        async def end_canary(canary_id: str) -> Response:
            self.canaries_ended.append(canary_id)
            return Response(status_code=204)

        @app.post(GATEWAY_ASK_PATH, response_model=None)
        async def ask(request: AskRequest) -> Response:
            return await self._ask(request)

        return app

    def _canary(self, order: CanaryOrder) -> CanaryReport:
        """Goes on for as many looks as there are in `canary_states`. One that is lost is so until its candidate is
        loaded again.
        """
        self.canaries.append(order)
        state: CanaryState = "lost"
        if order.candidate.id in self.beside:
            state = self.canary_states.pop(0) if len(self.canary_states) > 1 else self.canary_states[0]
        if state == "lost":
            self.beside.pop(order.candidate.id, None)
        arm = CanaryArm(requests=self.canary_requests, errors=0, latency_s=0.5, tokens=3.0)
        reason = None if state in {"running", "passed"} else f"it is {state}"
        return CanaryReport(
            id=order.id,
            state=state,
            reason=reason,
            elapsed_s=2.0,
            candidate=arm,
            active=arm,
            latency_ratio=1.25,
            guards=[CanaryGuard(guard="errors", value=0.004, limit=order.max_error_rate, evidence=0.5)],
            judge=None if order.judge is None else self._judged(),
        )

    def _judged(self) -> CanaryJudged:
        """As if every verdict were of the candidate's answers, and all of the active model's good."""
        good = [one.good for one in self.canary_verdicts if one.good is not None]
        return CanaryJudged(
            pairs=len(good),
            candidate_good=sum(good) / len(good) if good else None,
            active_good=1.0 if good else None,
            unread=len(self.canary_verdicts) - len(good),
            trouble=self.canary_trouble,
        )

    def _usage(self) -> UsageReport:
        """A second and ten tokens an item."""
        n = sum(self.used_items.values())
        row = {"prompt_tokens": 0, "completion_tokens": 10 * n, "busy_s": float(n)}
        model = self.active.id if self.active else ""
        return UsageReport(
            boot_id=str(self.boot),
            in_flight=0,
            models=[ModelUsage.model_validate({"model": model, "request_class": "batch", "requests": n} | row)],
            jobs=[
                JobUsage(job_id=job, prompt_tokens=0, completion_tokens=10 * items, busy_s=float(items))
                for job, items in self.used_items.items()
            ],
        )

    def _state(self) -> GatewayState:
        slots = []
        if self.active is not None:
            digest = self.pushed_digest or self.active.digest
            slots.append(
                SlotState(
                    model=self.active.model_copy(update={"digest": digest}),
                    active=True,
                    phase="ready",
                    in_flight=0,
                    load_duration_s=1.5,
                    max_model_len_tokens=512,
                    version=WeightsVersion(number=self.pushed),
                )
            )
        return GatewayState(
            boot_id=str(self.boot),
            pid=1,
            active=self.active,
            switching_to=self.switching_to,
            slots=slots,
            held=0,
            failed_loads=self.failed_loads,
            deaths=self.deaths,
        )

    async def _activate(self, request: ActivateRequest) -> Response:
        if self.switching_to is not None:
            return _refuse(409, "switch_in_progress", f"switching to {self.switching_to}")
        self.asked.append(request)
        if self.refuse_switches_with is not None:
            return _refuse(*self.refuse_switches_with)
        previous = self.active.id if self.active else None
        self.switching_to = request.model.id
        self.switch_asked.set()
        try:
            await self.may_switch.wait()
        finally:
            self.switching_to = None
        if self.fail_with is None:
            self.active, self.pushed, self.pushed_digest = request.model, 0, ""
            self.activated.append(request.model.id)
        result = ActivateResult(
            status="activated" if self.fail_with is None else "failed",
            id=request.model.id,
            previous=previous,
            method="restart",
            paused_ms=10.0,
            total_ms=20.0,
            in_flight=0,
            proof=self.proof,
            error=self.fail_with,
            rolled_back_to=previous if self.fail_with else None,
        )
        self.on_answer()
        return JSONResponse(result.model_dump())

    async def _take(self, kept: KeptVersion) -> Response:
        """As a switch goes."""
        if self.active is None or (self.active.id, self.active.digest) != (kept.model, kept.files_digest):
            return _refuse(409, "push_refused", f"{kept.model} is not active with {kept.files_digest}")
        self.taken.append(kept)
        self.switch_asked.set()
        await self.may_switch.wait()
        if self.fail_with is None:
            self.pushed, self.pushed_digest = kept.version.number, kept.digest
        result = ActivateResult(
            status="activated" if self.fail_with is None else "failed",
            id=kept.model,
            previous=kept.model,
            method="push",
            paused_ms=10.0,
            total_ms=20.0,
            in_flight=0,
            proof=self.proof,
            error=self.fail_with,
        )
        self.on_answer()
        return JSONResponse(result.model_dump())

    async def _ask(self, request: AskRequest) -> Response:
        if self.active is None or self.active.id != request.model:
            return _refuse(404, "model_not_found", f"{request.model} is not loaded")
        for item in request.items:
            if self.before_reply is not None:
                await self.before_reply(item)
        outputs = [self.reply(item) for item in request.items]
        return JSONResponse(AskResult(model=request.model, digest=request.digest, outputs=outputs).model_dump())

    def _batch(self, request: BatchRequest) -> Response:
        if self.refuse_batches_with is not None:
            status, code = self.refuse_batches_with
            return _refuse(status, code, code)
        served = self.active if self.active and self.active.id == request.model else self.beside.get(request.model)
        if served is None:
            return _refuse(404, "model_not_found", f"{request.model} is not loaded")
        if request.digest not in {None, served.digest}:
            return _refuse(409, "digest_mismatch", f"{request.model} is {served.digest}")
        self.batches.append(request)
        answer = self.answers.get(request.model, self.answer)
        outputs = [answer(item) for item in request.items]
        return JSONResponse(BatchResult(model=request.model, digest=served.digest, outputs=outputs).model_dump())


def _refuse(status: int, code: str, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail, "code": code}, status)
