"""The part that runs in the visitor's browser: the key outlives a reload, and a web UI that is away is told in words.

The key lies in the tab's session storage, which other sites cannot read and which ends with the tab.
"""

from pathlib import Path

import streamlit as st

_SCRIPT = Path(__file__).with_suffix(".js").read_text()
_NAME = "in_browser"
_REMOVED = "api_key_removed"

_mounted = st.components.v2.component("stepserve_in_browser", js=_SCRIPT)


def draw(key: str) -> None:
    """`key`: of the session state, under which the visitor's key lies. Before the widget that has this key."""

    def take() -> None:
        st.session_state[key] = st.session_state[_NAME]["key"]

    data = {"key": st.session_state.get(key) or "", "removed": st.session_state.get(_REMOVED, False)}
    _mounted(key=_NAME, data=data, on_key_change=take, height=1)


def note_change(key: str) -> None:
    """For the widget: whoever empties it has the browser forget the key, too."""
    st.session_state[_REMOVED] = not st.session_state.get(key)
