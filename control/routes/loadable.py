"""What the gateway asks on control's own socket; the public port hands none of this on."""

from fastapi import APIRouter

from control.models.loading import Loading
from control.models.registry import Registry
from control.services import Given
from stepserve.contract import CONTROL_LOADABLE_PATH, LoadRequest, RegisteredModels

router = APIRouter(prefix=CONTROL_LOADABLE_PATH)


@router.get("")
async def models(registry: Given[Registry]) -> RegisteredModels:
    return RegisteredModels(models=await registry.named_models())


@router.get("/{model_id:path}")
async def loadable(model_id: str, loading: Given[Loading]) -> LoadRequest:
    return await loading.request_for(model_id)
