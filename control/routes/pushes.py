"""Asked by control's own gateway over its socket: weights that were pushed to it, for the whole fleet."""

from fastapi import APIRouter

from control.activation.activator import Activator
from control.services import Given
from stepserve.contract import ActivateResult
from stepserve.fleet import CONTROL_PUSHES_PATH, KeptVersion

router = APIRouter()


@router.post(CONTROL_PUSHES_PATH)
async def push(pushed: KeptVersion, activator: Given[Activator]) -> ActivateResult:
    """Answered when all serve them, or when all are back; that is a result, too."""
    return await activator.push(pushed)
