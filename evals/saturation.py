"""Whether a dataset can still tell models apart: where all answers are right, or none, it cannot. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

Saturation = Literal["all", "none"]


def saturation_of(result: Mapping[str, Any]) -> Saturation | None:
    """Of an eval's result: `all` or `none` of its answers are right; None: some are, or nothing is known."""
    accuracy = result.get("accuracy")
    if not result.get("answered_samples", result.get("total_samples")) or accuracy not in {0, 1}:
        return None
    return "all" if accuracy == 1 else "none"
