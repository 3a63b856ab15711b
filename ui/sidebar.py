"""What stands beside every page: the key, and what serves now."""

import streamlit as st

from stepserve.client.errors import StepserveError
from ui import connection
from ui.harmless import harmless

DOTS = {"ok": "green", "loading": "blue", "degraded": "orange", "error": "red"}
_WORDS = {"ok": "serves", "loading": "is loading", "degraded": "serves; control is down", "error": "does not serve"}
_EVERY_S = 5.0
_STATUS = "server_status"


def draw() -> None:
    with st.sidebar:
        _state()
    connection.ask_for_key()


@st.fragment(run_every=_EVERY_S)
def _state() -> None:
    """A page that was drawn while the server was in another state is drawn anew."""
    try:
        health = connection.server().health()
    except StepserveError:
        st.markdown(":red[●] The server cannot be reached")
        st.session_state[_STATUS] = None
        return
    name = harmless(health.active_model or "No model")
    st.markdown(f":{DOTS[health.status]}[●] **{name}** {_WORDS[health.status]}")
    before = st.session_state.get(_STATUS, health.status)
    st.session_state[_STATUS] = health.status
    if before != health.status:
        st.rerun()
