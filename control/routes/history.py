"""GET /history: what was served and measured, for charts that are there after a reload."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query

from control.clock import utc_now
from control.services import Given
from control.telemetry.history import DAYS_KEPT, History
from control.telemetry.samples import merged, shown

router = APIRouter()

_LONGEST_S = DAYS_KEPT * 86_400
_MINUTE_S, _HOUR_S = 60.0, 3600.0


@router.get("/history")
async def history(
    history: Given[History],
    window_s: Annotated[int, Query(ge=1, le=_LONGEST_S)] = 3600,
    samples: Annotated[int, Query(ge=1, le=2000)] = 300,
) -> dict[str, Any]:
    """The last `window_s` seconds in about so many samples, the oldest first: no finer than a second in the last hour,
    than a minute in the last month.

    `tokens_per_s` has completion tokens by model. `requests_per_s` is null where the gateway did not answer.
    `waiting` is the most of a sample's time, what else is no rate its mean. `marks` are pushes of weights and deaths of
    engines.
    """
    least_s = 1.0 if window_s <= _HOUR_S else _MINUTE_S
    step_s = max(least_s, window_s / samples)
    found = await history.between(utc_now() - timedelta(seconds=window_s), step_s)
    if samples == 1 and found:
        found = [merged(found)]  # steps begin at multiples of their length, so that a chart does not shift with time
    return {
        "window_s": window_s,
        "step_s": step_s,
        "samples": [shown(sample) for sample in found],
        "marks": [mark.model_dump(mode="json") for sample in found for mark in sample.marks],
    }
