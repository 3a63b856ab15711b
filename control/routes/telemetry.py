"""/gpu, /system and /settings/power_profile."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from control.errors import CardsUnavailable
from control.power.governor import Governor, PowerState
from control.services import Given
from control.telemetry.telemetry import Telemetry

router = APIRouter()

_FIRST_CARD = (
    "name", "memory_total_mb", "memory_used_mb", "utilization_gpu", "utilization_mem", "temperature_gpu",
    "power_draw_w", "power_limit_w", "fan_speed_pct",
)  # fmt: skip


@router.get("/gpu")
async def gpu(telemetry: Given[Telemetry]) -> dict[str, Any]:
    """As the sampler saw it last; `problem` is there when that is not from now."""
    seen = telemetry.cards.seen
    if not seen.cards and not seen.at_s:
        seen = await telemetry.cards.look()
    if not seen.cards:
        raise CardsUnavailable(seen.problem or "no GPU was found")
    cards = [asdict(card) for card in seen.cards]
    answer = {name: cards[0][name] for name in _FIRST_CARD} | {"driver_version": seen.driver_version, "gpus": cards}
    return answer | ({"problem": seen.problem} if seen.problem else {})


@router.get("/system")
async def system(telemetry: Given[Telemetry]) -> dict[str, Any]:
    return asdict(await telemetry.system())


@router.get("/settings/power_profile")
async def show_profile(governor: Given[Governor]) -> dict[str, Any]:
    return {"current": governor.state.profile, "profiles": governor.profiles} | _shown(governor.state)


@router.post("/settings/power_profile")
async def choose_profile(profile: str, governor: Given[Governor]) -> dict[str, Any]:
    return {"status": "success"} | _shown(await governor.choose(profile))


def _shown(state: PowerState) -> dict[str, Any]:
    shown = asdict(state)
    if shown["reason"] is None:
        del shown["reason"]
    return shown
