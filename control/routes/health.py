"""GET /health on control's own socket: the gateway's and the supervisor's check."""

from typing import Any

from fastapi import APIRouter

from control.services import Wired

router = APIRouter()


@router.get("/health")
async def health(services: Wired) -> dict[str, Any]:
    """200 while the database answers."""
    active = await services.history.active()
    return {"status": "ok", "active_model": active.id if active else None, "switching_to": services.activator.target}
