"""Routes that the gateway answers by itself, with or without an engine, with or without control."""

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router

from gateway.fleet.membership import Membership
from gateway.request.context import RequestContext
from gateway.serving.pool import Pool
from gateway.serving.preload import Preload
from gateway.sidecar.control_link import ControlProxy
from gateway.status.diagnosis import diagnosis
from gateway.status.exposition import CONTENT_TYPE, Exposition
from gateway.status.gpu import Nvml
from gateway.status.model_cards import ModelCards
from stepserve import __version__, web_ui
from stepserve.contract import GatewayState, SlotState
from stepserve.installed_vllm import installed_vllm
from stepserve.setting_origins import origins, redacted
from stepserve.settings import Settings

_PULLS, _PULLS_TIMEOUT_S = "/jobs/stats?type=pull", 2.0

Status = Literal["ok", "loading", "degraded", "error"]


@dataclass(frozen=True, slots=True)
class Information:
    """Handlers over the pool's snapshot; one instance a process. `membership`: of a gateway that joined a fleet."""

    settings: Settings
    pool: Pool
    control: ControlProxy
    cards: ModelCards
    nvml: Nvml
    started: float
    exposition: Exposition
    engine_diagnosis: Callable[[], dict[str, Any]]
    preload: Preload
    membership: Membership | None = None

    def app(self) -> Router:
        """Raises GatewayError for what is not there."""
        return Router(
            routes=[
                Route("/health", self.health),
                Route("/livez", self.livez),
                Route("/readyz", self.readyz),
                Route("/status", self.status),
                Route("/version", self.version),
                Route("/info", self.info),
                Route("/config", self.config),
                Route("/diag", self.diag),
                Route("/metrics", self.metrics),
                Route(web_ui.PATH, self.ui),
                Route("/v1/models", self.cards.all),
                Route("/v1/models/{name:path}", self.cards.one),
            ],
        )

    async def health(self, request: Request) -> Response:
        state = self.pool.snapshot()
        is_minimal = RequestContext.of(request.scope).minimal
        control_up, pulls = await asyncio.gather(self._control_up(), _nothing() if is_minimal else self._pulls())
        status = health_status(state, control_up)
        if is_minimal:
            return JSONResponse({"status": status}, 200 if serving(state) else 503)
        active = active_slot(state)
        gpu = await asyncio.to_thread(self.nvml.health)
        content = {
            "status": status,
            "fault": active.fault if active else None,
            "proved_at": active.proved_at if active else None,
            "gpu": gpu.as_dict(),
            "gpu_status": "available" if gpu.available else "unavailable",
            "gpu_memory_allocated_mb": round(1024 * gpu.memory_allocated_gb),
            "gpu_memory_reserved_mb": round(1024 * gpu.memory_reserved_gb),
            "cuda_available": gpu.available,
            "torch_version": _installed("torch"),
            "active_model": state.active.id if state.active else None,
            "worker_busy": any(slot.in_flight for slot in state.slots),
            "uptime_seconds": round(time.monotonic() - self.started, 1),
            "models_cached": len(state.slots),
            "cache_limit": self.pool.max_loaded,
            "downloads_active": pulls.get("running"),
            "downloads_queued": pulls.get("pending"),
            "control": "up" if control_up else "down",
        }
        return JSONResponse(content, 200 if serving(state) else 503)

    async def livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        """A member of a fleet is ready only while it serves what is committed there, as far as it is told."""
        ready = serving(self.pool.snapshot())
        reason = self.membership.why_not_ready() if ready and self.membership is not None else None
        if reason is not None:
            return JSONResponse({"ready": False, "reason": reason}, 503)
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _control_up(self) -> bool:
        if self.membership is not None:
            return self.membership.hears_control
        return await self.control.is_up()

    async def status(self, _: Request) -> Response:
        state = self.pool.snapshot()
        engine, limit = self.settings.engine, self.pool.max_loaded
        return JSONResponse(
            {
                "active": state.active.model_dump() if state.active else None,
                "switching_to": state.switching_to,
                "paused": state.paused,
                "held_requests": state.held,
                "engines": [slot.model_dump() for slot in state.slots],
                "cache": {"loaded": len(state.slots), "limit": limit},
                "cache_size": len(state.slots),
                "max_cache": limit,
                "cached_models": [slot.model.id for slot in state.slots],
                "vllm_available": installed_vllm() is not None,
                "transformers_available": _installed("transformers") is not None,
                "bitsandbytes_available": _installed("bitsandbytes") is not None,
                "hf_hub_available": _installed("huggingface_hub") is not None,
                "preload": self.preload.outcomes,
                "failed_loads": [failed.model_dump() for failed in state.failed_loads],
                "config": self._config(),
                "settings": {
                    "max_held_requests": self.settings.max_held_requests,
                    "hold_timeout_s": self.settings.hold_timeout_s,
                    "load_on_request": self.settings.load_on_request,
                    "turn_wait_s": self.settings.turn_wait_s,
                    "model_keep_alive": self.settings.model_keep_alive,
                    "engine": engine.model_dump(),
                },
            }
        )

    async def version(self, _: Request) -> Response:
        cuda = (await asyncio.to_thread(self.nvml.health)).available
        return JSONResponse(
            {
                "api_version": __version__,
                "python_version": platform.python_version(),
                "torch_version": _installed("torch"),
                "transformers_version": _installed("transformers"),
                "vllm_version": installed_vllm(),
                "cuda_available": cuda,
                "cuda_version": _cuda_version() if cuda else None,
            }
        )

    async def info(self, _: Request) -> Response:
        return JSONResponse(self._paths() | {"version": __version__})

    async def config(self, request: Request) -> Response:
        """With `?origins=true` each setting by its full name, and where it has its value from."""
        if request.query_params.get("origins", "").lower() != "true":
            return JSONResponse(self._config())
        found = await asyncio.to_thread(origins, self.settings)  # it reads the config file
        return JSONResponse({"settings": [asdict(each) for each in found]})

    def _config(self) -> dict[str, Any]:
        """The settings in force, and where they lead to on disk."""
        return redacted(self.settings) | self._paths()

    def _paths(self) -> dict[str, str]:
        layout = self.settings.layout
        return {
            "base_dir": str(layout.base),
            "models_dir": str(layout.models),
            "runs_dir": str(layout.runs),
            "datasets_dir": str(layout.datasets),
            "db_path": str(layout.database),
        }

    async def _pulls(self) -> dict[str, int]:
        """Downloads by their status; empty while control is away."""
        told = await self.control.fetch(_PULLS, _PULLS_TIMEOUT_S)
        found: dict[str, int] = msgspec.json.decode(told) if told is not None else {}
        return found

    async def diag(self, _: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._diagnosis))

    def _diagnosis(self) -> dict[str, Any]:
        """Imports the engine's libraries, which takes seconds the first time."""
        engine, cards = self.engine_diagnosis(), diagnosis()
        cuda_built = engine.get("torch", {}).get("cuda_built")
        return (
            engine
            | cards
            | {
                "cuda_available": cuda_built is not None and bool(cards["devices"]),
                "cuda_count": len(cards["devices"]),
                "cuda_devices": [card["name"] for card in cards["devices"]],
                "torch_installed": _installed("torch") is not None,
                "torch_version": _installed("torch"),
            }
        )

    async def metrics(self, _: Request) -> Response:
        state = self.pool.snapshot()
        active = active_slot(state)
        text = await self.exposition.text(
            held=state.held,
            ready=active is not None and active.phase == "ready",
            healthy=active is not None and active.health == "ok",
            version=active.version.number if active is not None else 0,
        )
        return Response(text, media_type=CONTENT_TYPE)

    async def ui(self, request: Request) -> Response:
        host = request.url.hostname or ""
        if (reason := web_ui.unavailable(self.settings, host)) is not None:
            return JSONResponse({"detail": reason}, 404)
        return RedirectResponse(web_ui.url_of(self.settings, host), 307)


def active_slot(state: GatewayState) -> SlotState | None:
    return next((slot for slot in state.slots if slot.active), None)


def serving(state: GatewayState) -> bool:
    """True while the active model's engine takes requests, and the model has not failed its last proof."""
    active = active_slot(state)
    return active is not None and active.phase == "ready" and active.health != "failed"


def health_status(state: GatewayState, control_up: bool) -> Status:
    active = active_slot(state)
    if active is not None and active.health == "failed":
        return "error"
    if serving(state):
        return "ok" if control_up and active is not None and active.health == "ok" else "degraded"
    if state.switching_to is not None or state.active is None:
        return "loading"
    return "error"


async def _nothing() -> dict[str, int]:
    return {}


@cache
def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda_version() -> str | None:
    return next(
        (number for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12") if (number := _installed(name))), None
    )
