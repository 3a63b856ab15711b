"""Which model is active, and switching it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from control.activation.activator import Activator, SwitchWish, show
from control.clock import iso
from control.errors import NotFound
from control.models.activation_log import ActivationLog
from control.services import Given
from stepserve.contract import ActivateResult, InFlightPolicy, SwitchMethod
from stepserve.request_model import RequestModel

router = APIRouter()


class RollbackRequest(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    in_flight: InFlightPolicy = "finish"
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    method: SwitchMethod = "auto"

    def wish(self) -> SwitchWish:
        return SwitchWish(method=self.method, in_flight=self.in_flight, timeout_s=self.timeout_s)


class SetActiveRequest(RollbackRequest):
    id: str


def answer(result: ActivateResult) -> dict[str, Any]:
    return result.model_dump(exclude={"error", "rolled_back_to"})


@router.get("/models/active")
async def active(activations: Given[ActivationLog]) -> dict[str, Any]:
    model = await activations.active()
    if model is None:
        raise NotFound("no model is active: POST /models/set_active")
    return {"id": model.id, "path": model.path, "digest": model.digest, "since": iso(model.since)}


@router.post("/models/set_active")
async def set_active(request: SetActiveRequest, activator: Given[Activator]) -> dict[str, Any]:
    return answer(await activator.set_active(request.id, request.wish()))


@router.post("/models/rollback")
async def roll_back(activator: Given[Activator], request: RollbackRequest | None = None) -> dict[str, Any]:
    return answer(await activator.roll_back((request or RollbackRequest()).wish()))


@router.get("/models/activations")
async def history(
    activator: Given[Activator], activations: Given[ActivationLog], limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    progress = activator.progress
    return {"activations": [show(row, progress) for row in await activations.history(limit)]}
