"""Which model is active, and switching it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from control.activation.activator import Activator
from control.activation.progress import show
from control.activation.wishes import SwitchWish
from control.clock import iso
from control.errors import NotFound
from control.models.activation_log import ActivationLog
from control.services import Given
from stepserve.contract import InFlightPolicy, SwitchMethod
from stepserve.fleet import RolloutPolicy, Wave
from stepserve.request_model import RequestModel

router = APIRouter()


class RollbackRequest(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    in_flight: InFlightPolicy = "finish"
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    method: SwitchMethod = "auto"

    def wish(self, wave: Wave, policy: RolloutPolicy) -> SwitchWish:
        return SwitchWish(
            method=self.method, in_flight=self.in_flight, timeout_s=self.timeout_s, wave=wave, policy=policy
        )


class SetActiveRequest(RollbackRequest):
    id: str


@router.get("/models/active")
async def active(activations: Given[ActivationLog]) -> dict[str, Any]:
    model = await activations.active()
    if model is None:
        raise NotFound("no model is active: POST /models/set_active")
    return {"id": model.id, "path": model.path, "digest": model.digest, "since": iso(model.since)}


@router.post("/models/set_active")
async def set_active(
    request: SetActiveRequest, activator: Given[Activator], wave: Wave = "25%", policy: RolloutPolicy = "all"
) -> dict[str, Any]:
    """On a fleet, `wave` says how many gateways switch at once; `policy`, whether one that fails takes all back."""
    return (await activator.set_active(request.id, request.wish(wave, policy))).shown()


@router.post("/models/rollback")
async def roll_back(
    activator: Given[Activator],
    request: RollbackRequest | None = None,
    wave: Wave = "25%",
    policy: RolloutPolicy = "all",
) -> dict[str, Any]:
    return (await activator.roll_back((request or RollbackRequest()).wish(wave, policy))).shown()


@router.get("/models/activations")
async def history(
    activator: Given[Activator], activations: Given[ActivationLog], limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    progress = activator.progress
    return {"activations": [show(row, progress) for row in await activations.history(limit)]}
