"""First steps, for who has never been here: what there is to do, and what of it is done."""

import streamlit as st

from stepserve.client.errors import StepserveError
from ui import links
from ui.connection import server

_CLOSED = "guide_closed"


def draw() -> None:
    """Until two evals are there to be compared, or the visitor has closed it."""
    if st.session_state.get(_CLOSED):
        return
    there = server()
    try:
        measured = there.eval_history_page(limit=1).total
        if measured > 1:
            st.session_state[_CLOSED] = True
            return
        registered = there.list_models()
    except StepserveError:
        return  # the page itself says what is wrong
    with st.container(border=True):
        st.markdown("**First steps**")
        _step("Ask the active model something", "playground", done=False)
        _step("Register a second checkpoint, or have the trainer push it", "models", done=len(registered) > 1)
        _step("Evaluate the active model", "evals", done=measured > 0, tab="Start one")
        _step("Activate the other checkpoint, and evaluate it too", "models", done=False)
        _step("Compare the two", "evals", done=False, tab="Compare")
        if st.button("Close", key="guide_close"):
            st.session_state[_CLOSED] = True
            st.rerun()


def _step(said: str, page: str, *, done: bool, **query: str) -> None:
    icon = ":material/check_circle:" if done else ":material/radio_button_unchecked:"
    links.to(page, said, icon=icon, **query)
