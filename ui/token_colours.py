"""An answer with each token coloured by how likely it was. What the model said is escaped: none of it becomes HTML."""

import html
import math
from collections.abc import Sequence

import streamlit as st

from ui.harmless import MOST_CHARACTERS

_COLOURS = ((0.9, "#d6f5d6"), (0.5, "#fff3bf"), (0.1, "#ffd8a8"), (0.0, "#ffc9c9"))
_INK = "#1f2328"
_MOST_TOKENS = 10_000


def draw(likely: Sequence[tuple[str, float]]) -> None:
    st.html(as_html(likely))
    if len(likely) > _MOST_TOKENS:
        st.caption(f"The first {_MOST_TOKENS:,} of {len(likely):,} tokens.")
    st.caption("Green: at least 90 % likely; yellow 50 %, orange 10 %, red less. A token's tooltip has the number.")


def as_html(likely: Sequence[tuple[str, float]]) -> str:
    spans, length = [], 0
    for token, logprob in likely[:_MOST_TOKENS]:
        length += len(token)
        if length > MOST_CHARACTERS:
            break
        share = math.exp(min(0.0, logprob))
        colour = next(colour for least, colour in _COLOURS if share >= least)
        shown = html.escape(token)
        spans.append(f'<span style="background:{colour};color:{_INK}" title="{100 * share:.1f} %">{shown}</span>')
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(spans)}</div>'
