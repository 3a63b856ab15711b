"""/models: the registry."""

import contextlib
from typing import Any

from fastapi import APIRouter

from control.activation.activator import SwitchWish
from control.errors import Conflict, GatewayUnavailable
from control.models.registration import RegisterRequest
from control.routes.activations import answer
from control.services import Wired
from stepserve.contract import GatewayState

router = APIRouter()


@router.get("/models")
async def list_models(services: Wired) -> dict[str, Any]:
    try:
        state: GatewayState | None = await services.gateway.state()
    except GatewayUnavailable:
        state = None
    return {"models": await services.registry.list(state)}


@router.post("/models/register")
async def register(request: RegisterRequest, services: Wired) -> dict[str, Any]:
    """With `activate`, a switch that fails is this request's failure; the model stays registered."""
    registered = await services.registrar.register(request)
    body: dict[str, Any] = {
        "status": "dry_run" if request.dry_run else "registered",
        "id": registered.model.id,
        "digest": registered.model.digest,
        "warnings": await services.registry.warnings(registered.model),
    }
    if registered.existing:
        body["existing"] = True
    if registered.model.quantize is not None:
        body["quantize"] = registered.model.quantize
    if registered.model.base_model is not None:
        body["base_model"] = registered.model.base_model
    if registered.model.chat_template is not None:
        body["chat_template"] = "registered"
    if registered.replaced is not None:
        body["replaced"] = registered.replaced
    if registered.removal is not None:
        body["removal"] = registered.removal.show()
    if request.dry_run:
        return body
    if registered.activation is not None:
        body["activation"] = answer(registered.activation)
    elif registered.replaced is not None:
        with contextlib.suppress(GatewayUnavailable):
            await services.gateway.unload(request.id)  # the next request loads the new content
    if registered.activation is None and request.activate:
        body["activation"] = answer(await services.activator.set_active(request.id, SwitchWish(), cause="register"))
    return body


@router.post("/models/{model_id}/unload")
async def unload(model_id: str, services: Wired) -> dict[str, Any]:
    """Frees the memory of a model that is loaded beside the active one; a request for it loads it again."""
    model_id = await services.registry.resolve(model_id)
    active = await services.history.active()
    if active is not None and active.id == model_id:
        raise Conflict(f"{model_id} is active: make another model active first")
    await services.gateway.unload(model_id)
    return {"status": "unloaded", "id": model_id}


@router.delete("/models/{model_id}")
async def remove(model_id: str, services: Wired, files: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """With `files`, `removal` says what went and what was left; with `dry_run` what would, and nothing is changed."""
    removal = await services.registry.remove(model_id, files=files, dry_run=dry_run)
    if not dry_run:
        with contextlib.suppress(GatewayUnavailable):
            await services.gateway.unload(model_id)
    body = {"status": "dry_run" if dry_run else "deleted", "id": model_id, "files": bool(removal and removal.complete)}
    return body | ({"removal": removal.show()} if removal is not None else {})
