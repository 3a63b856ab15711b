"""GET /health on control's own socket: the gateway's and the supervisor's check."""

from typing import Any

from fastapi import APIRouter

from control.activation.activator import Activator
from control.models.activation_log import ActivationLog
from control.services import Given

router = APIRouter()


@router.get("/health")
async def health(activations: Given[ActivationLog], activator: Given[Activator]) -> dict[str, Any]:
    """200 while the database answers."""
    active = await activations.active()
    return {"status": "ok", "active_model": active.id if active else None, "switching_to": activator.target}
