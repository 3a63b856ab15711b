"""/models: the registry."""

import contextlib
import json
from typing import Any

from fastapi import APIRouter, Response

from control.activation.activator import Activator
from control.activation.wishes import SwitchWish
from control.errors import Conflict, GatewayUnavailable
from control.gateway_client import GatewayClient
from control.models.activation_log import ActivationLog
from control.models.listing import ModelListing
from control.models.registration import ChangeRequest, RegisterRequest
from control.models.registry import Registry
from control.registration.registrar import Registrar
from control.services import Given
from stepserve.contract import GatewayState

router = APIRouter()


@router.get("/models", response_model=dict[str, Any])
async def list_models(gateway: Given[GatewayClient], listing: Given[ModelListing]) -> Response:
    # Encoded as they come: ten thousand at once would hold up all others for a second.
    encoded = [json.dumps(each) async for some in listing.every(await _state(gateway)) for each in some]
    return Response(f'{{"models":[{",".join(encoded)}]}}', media_type="application/json")


@router.get("/models/{model_id}")
async def show(model_id: str, gateway: Given[GatewayClient], listing: Given[ModelListing]) -> dict[str, Any]:
    return await listing.one(model_id, await _state(gateway))


@router.post("/models/register")
async def register(
    request: RegisterRequest,
    registrar: Given[Registrar],
    registry: Given[Registry],
    gateway: Given[GatewayClient],
    activator: Given[Activator],
) -> dict[str, Any]:
    """With `activate`, a switch that fails is this request's failure; the model stays registered."""
    registered = await registrar.register(request)
    body: dict[str, Any] = {
        "status": "dry_run" if request.dry_run else "registered",
        "id": registered.model.id,
        "digest": registered.model.digest,
        "warnings": await registry.warnings(registered.model),
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
        body["activation"] = registered.activation.shown()
    elif registered.replaced is not None:
        with contextlib.suppress(GatewayUnavailable):
            await gateway.unload(request.id, forced=True)  # the next request loads the new content
    if registered.activation is None and request.activate:
        body["activation"] = (await activator.set_active(request.id, SwitchWish(), cause="register")).shown()
    return body


@router.post("/models/{model_id}/unload")
async def unload(
    model_id: str, registry: Given[Registry], activations: Given[ActivationLog], gateway: Given[GatewayClient]
) -> dict[str, Any]:
    """Frees the memory of a model that is loaded beside the active one; a request for it loads it again.

    A canary's candidate stays.
    """
    model_id = await registry.resolve(model_id)
    active = await activations.active()
    if active is not None and active.id == model_id:
        raise Conflict(f"{model_id} is active: make another model active first")
    await gateway.unload(model_id)
    return {"status": "unloaded", "id": model_id}


@router.patch("/models/{model_id}")
async def change(
    model_id: str, request: ChangeRequest, registry: Given[Registry], gateway: Given[GatewayClient]
) -> dict[str, Any]:
    """`keep_alive` counts at once, also for a model that is loaded."""
    model_id = await registry.resolve(model_id)
    await registry.set_keep_alive(model_id, request.keep_alive)
    with contextlib.suppress(GatewayUnavailable):  # it is told when the model is loaded
        await gateway.keep_alive(model_id, request.keep_alive)
    return {"status": "changed", "id": model_id, "keep_alive": request.keep_alive}


@router.delete("/models/{model_id}")
async def remove(
    model_id: str, registry: Given[Registry], gateway: Given[GatewayClient], files: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """With `files`, `removal` says what went and what was left; with `dry_run` what would, and nothing is changed."""
    removal = await registry.remove(model_id, files=files, dry_run=dry_run)
    if not dry_run:
        with contextlib.suppress(GatewayUnavailable):
            await gateway.unload(model_id, forced=True)
    body = {"status": "dry_run" if dry_run else "deleted", "id": model_id, "files": bool(removal and removal.complete)}
    return body | ({"removal": removal.show()} if removal is not None else {})


async def _state(gateway: GatewayClient) -> GatewayState | None:
    """None: nothing is known to be loaded."""
    try:
        return await gateway.state()
    except GatewayUnavailable:
        return None
