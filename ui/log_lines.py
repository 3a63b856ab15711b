"""The lines of a log that fit, as they come."""

import json
from typing import Any

import streamlit as st

from stepserve.client.log_text import log_text
from ui.connection import server, trouble_shown
from ui.harmless import cut

_EVERY_S = 2.0
_LOGS = ("api_server", "gpu_worker", "jobs")
_LEVELS = {"all": 0, "INFO and worse": 20, "WARNING and worse": 30, "ERROR and worse": 40}
_RANKS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_SEARCHED = 10_000  # lines, where only some of them are wanted


def draw() -> None:
    component, lines, level = st.columns(3)
    component.selectbox("Of", _LOGS, key="system_log", bind="query-params")
    lines.selectbox("Lines", (50, 200, 1000), key="system_lines", bind="query-params")
    level.selectbox("Level", list(_LEVELS), key="system_level", bind="query-params")
    st.text_input("Only lines with", key="system_log_filter", bind="query-params")
    follows = st.toggle("Follow", value=True, key="system_follow")
    st.fragment(_lines, run_every=_EVERY_S if follows else None)()


def _lines() -> None:
    with trouble_shown():
        sought = str(st.session_state.get("system_log_filter", "")).casefold()
        least, count = _LEVELS[st.session_state["system_level"]], int(st.session_state["system_lines"])
        tail = server().logs(st.session_state["system_log"], lines=_SEARCHED if sought or least else count)
        fitting = [line for line in tail.lines if sought in str(line).casefold() and _rank(line) >= least]
        shown = [log_text(line) for line in fitting[-count:]]
        st.code(cut("\n".join(shown)) or "No such line.", language=None, height=500)
        if sought or least:
            st.caption(f"{len(shown):,} of {len(fitting):,} that fit, among the newest {len(tail.lines):,} lines.")


def _rank(line: Any) -> int:
    """Of a line without a level, as of the engine's own log, that of INFO."""
    try:
        level = json.loads(line)["level"] if isinstance(line, str) else line["level"]
    except (ValueError, KeyError, TypeError):
        return _RANKS["INFO"]
    return _RANKS.get(str(level), _RANKS["INFO"])
