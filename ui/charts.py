"""Charts over time.

As Vega-Lite itself: Streamlit's own `line_chart` builds and checks an Altair chart first, which takes a tenth of a
second, and Overview draws two every two seconds.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

_HEIGHT = 240  # pixels


def lines(table: pd.DataFrame, columns: Sequence[str], unit: str | None) -> None:
    """A line for each column over the column `time`; where a column has no value, its line has a gap."""
    rows = table.melt("time", list(columns), "what", "value")
    spec: dict[str, Any] = {
        "height": _HEIGHT,
        "mark": "line",
        "encoding": {
            "x": {"field": "time", "type": "temporal", "title": None},
            "y": {"field": "value", "type": "quantitative", "title": unit, "axis": {"format": "~g"}},
            "color": {
                "field": "what",
                "type": "nominal",
                "sort": list(columns),
                "legend": {"orient": "bottom", "title": None},
            },
            "tooltip": [
                {"field": "time", "type": "temporal", "format": "%X"},
                {"field": "what", "type": "nominal"},
                {"field": "value", "type": "quantitative", "format": ".4~g"},
            ],
        },
    }
    st.vega_lite_chart(rows, spec, alt=f"{', '.join(columns)} over time")
