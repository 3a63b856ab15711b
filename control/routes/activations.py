"""Which model is active, and switching it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from control.activation.activator import SwitchWish, show
from control.clock import iso
from control.errors import NotFound
from control.services import Wired
from stepserve.contract import ActivateResult, InFlightPolicy, SwitchMethod

router = APIRouter()


class RollbackRequest(BaseModel):
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
async def active(services: Wired) -> dict[str, Any]:
    model = await services.history.active()
    if model is None:
        raise NotFound("no model is active: POST /models/set_active")
    return {"id": model.id, "path": model.path, "digest": model.digest, "since": iso(model.since)}


@router.post("/models/set_active")
async def set_active(request: SetActiveRequest, services: Wired) -> dict[str, Any]:
    return answer(await services.activator.set_active(request.id, request.wish()))


@router.post("/models/rollback")
async def roll_back(services: Wired, request: RollbackRequest | None = None) -> dict[str, Any]:
    return answer(await services.activator.roll_back((request or RollbackRequest()).wish()))


@router.get("/models/activations")
async def history(services: Wired, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    progress = services.activator.progress
    return {"activations": [show(row, progress) for row in await services.history.history(limit)]}
