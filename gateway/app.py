"""The gateway's composition root: builds every part and says which one takes a request."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette

from gateway.asgi import App, Receive, Scope, Send
from gateway.control_link import ControlLink
from gateway.directory import ControlDirectory
from gateway.dispatch import Dispatch
from gateway.exposition import Exposition
from gateway.gate import Gate
from gateway.gpu import Nvml
from gateway.information import Information
from gateway.memory import memory_for_one_more
from gateway.observation import Observed
from gateway.pool import Pool
from gateway.private_api import create_private_app
from gateway.router import Router
from gateway.slot import Engine, StartEngine
from gateway.tracing import Tracer, tracer_of
from gateway.upload_link import UploadLink
from gateway.usage import usage
from switchyard.contract import Capabilities, ModelRef
from switchyard.settings import Settings


@dataclass(frozen=True, slots=True)
class PublicApp:
    """The one public port: vLLM's routes to a slot, control's to the sidecar, the rest is answered here."""

    dispatch: Dispatch
    control: ControlLink
    uploads: UploadLink
    own: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.own(scope, receive, send)
        elif self.dispatch.takes(scope):
            await self.dispatch(scope, receive, send)
        elif self.uploads.takes(scope):
            await self.uploads(scope, receive, send)
        elif self.control.takes(scope):
            await self.control(scope, receive, send)
        else:
            await self.own(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Both apps of one gateway process, over one pool."""

    pool: Pool
    control: ControlLink
    public: App
    private: Starlette
    tracer: Tracer | None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Runs the pool's writer task, which it yields; leaving ends the engine. Raises what made that task crash."""
        writer = asyncio.create_task(self.pool.run(), name="pool")
        try:
            yield writer
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            await self.control.close()
            if self.tracer is not None:
                await asyncio.to_thread(self.tracer.close)


def one_at_a_time(start_engine: StartEngine) -> StartEngine:
    """vLLM takes its settings from the environment while it starts, so two engines never start at once."""
    alone = asyncio.Lock()

    async def start(model: ModelRef) -> Engine:
        async with alone:
            return await start_engine(model)

    return start


def create_gateway(settings: Settings, start_engine: StartEngine, ask_engine: Callable[[], Capabilities]) -> Gateway:
    gate = Gate(settings.max_held_requests, settings.hold_timeout_s)
    pool = Pool(
        gate,
        one_at_a_time(start_engine),
        settings.engine_restart_max_delay_s,
        partial(memory_for_one_more, settings.engine),
        max_loaded=settings.max_loaded_models,
        load_wait_s=settings.hold_timeout_s,
        cool_down_s=settings.model_load_cooldown_s,
    )
    control = ControlLink(settings.layout.control_socket, settings.max_request_bytes, settings.max_dataset_bytes)
    directory = ControlDirectory(control)
    router = Router(gate, pool.residents, directory, settings.load_on_request, settings.max_held_requests)
    information = Information(settings, pool, control, directory, Nvml(), time.monotonic(), Exposition(control))
    usage.boot_id = pool.snapshot().boot_id
    tracer = tracer_of(settings.telemetry)
    public = PublicApp(Dispatch(router, settings.max_request_bytes), control, UploadLink(control), information.app())
    return Gateway(
        pool=pool,
        control=control,
        public=Observed(public, settings.logs, tracer),
        tracer=tracer,
        private=create_private_app(pool, router, usage, ask_engine),
    )
