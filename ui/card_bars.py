"""Each card's memory as a bar: weights, KV cache, free; its watts and degrees beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Gpu, Model
from ui.format import NOTHING, size
from ui.harmless import harmless

_MB = 1024**2
_COLOURS = {"weights": "#1f6feb", "KV cache and the rest": "#c77700", "free": "#d0d7de"}
_BAR = 34  # pixels


def draw(gpu: Gpu, models: Sequence[Model]) -> None:
    cards = gpu.gpus or [gpu.as_json()]
    weights = sum(model.size_bytes or 0 for model in models if model.loaded) if len(cards) == 1 else 0
    rows = [row for number, card in enumerate(cards) for row in parts(number, card, weights)]
    spec: dict[str, Any] = {
        "height": 30 + _BAR * len(cards),
        "mark": "bar",
        "encoding": {
            "y": {"field": "card", "type": "nominal", "title": None},
            "x": {"field": "GB", "type": "quantitative", "title": "GB"},
            "order": {"field": "order", "type": "quantitative"},
            "color": {
                "field": "what",
                "type": "nominal",
                "scale": {"domain": list(_COLOURS), "range": list(_COLOURS.values())},
                "legend": {"orient": "bottom", "title": None},
            },
            "tooltip": [{"field": "what", "type": "nominal"}, {"field": "GB", "type": "quantitative", "format": ".1f"}],
        },
    }
    st.vega_lite_chart(pd.DataFrame(rows), spec, alt="Memory of each card: weights, KV cache and the rest, free")
    for number, card in enumerate(cards):
        st.caption(harmless(words(number, card, weights)))


def parts(number: int, card: Mapping[str, Any], weights_bytes: int) -> list[dict[str, Any]]:
    """In GB. With more than one card nobody knows which weights lie on which, and all that is used is one part."""
    used, total = (card.get(name) or 0.0 for name in ("memory_used_mb", "memory_total_mb"))
    weights = min(used, weights_bytes / _MB)
    named = zip(_COLOURS, (weights, used - weights, max(0.0, total - used)), strict=True)
    return [
        {"card": f"card {number}", "what": what, "GB": mb * _MB / 1e9, "order": order}
        for order, (what, mb) in enumerate(named)
    ]


def words(number: int, card: Mapping[str, Any], weights_bytes: int) -> str:
    used, total = (card.get(name) for name in ("memory_used_mb", "memory_total_mb"))
    free = None if used is None or total is None else (total - used) * _MB
    held = f"weights {size(weights_bytes)}, " if weights_bytes else ""
    watts = f"{_whole(card.get('power_draw_w'))} of {_whole(card.get('power_limit_w'))} W"
    return (
        f"card {number}, {card.get('name') or 'unnamed'}: {held}free {size(free)}; {watts},"
        f" {_whole(card.get('temperature_gpu'))} °C"
    )


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"
