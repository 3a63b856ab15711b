"""What the gateway asks on control's own socket; the public port hands none of this on."""

from typing import Any

from fastapi import APIRouter

from control.services import Wired
from stepserve.contract import CONTROL_LOADABLE_PATH, LoadRequest

router = APIRouter(prefix=CONTROL_LOADABLE_PATH)


@router.get("")
async def ids(services: Wired) -> dict[str, Any]:
    return {"ids": await services.registry.ids()}


@router.get("/{model_id:path}")
async def loadable(model_id: str, services: Wired) -> LoadRequest:
    return await services.loading.request_for(model_id)
