"""What the gateway asks on control's own socket; the public port hands none of this on."""

from typing import Any

from fastapi import APIRouter

from control.models.loading import Loading
from control.models.registry import Registry
from control.services import Given
from stepserve.contract import CONTROL_LOADABLE_PATH, LoadRequest

router = APIRouter(prefix=CONTROL_LOADABLE_PATH)


@router.get("")
async def ids(registry: Given[Registry]) -> dict[str, Any]:
    return {"ids": await registry.ids()}


@router.get("/{model_id:path}")
async def loadable(model_id: str, loading: Given[Loading]) -> LoadRequest:
    return await loading.request_for(model_id)
