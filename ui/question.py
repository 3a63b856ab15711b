"""A question before something that cannot simply be undone: a dialog, and nothing happens until it is answered."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from ui.connection import trouble_shown


def ask(name: str, about: Any) -> None:
    """Opens the dialog that `answered` draws under this name, in a run of the whole page."""
    st.session_state[_key(name)] = about
    st.rerun()


def asked(name: str) -> Any:
    """What `ask` was given; None while no question is open."""
    return st.session_state.get(_key(name))


def answered(name: str, title: str, explain: Callable[[], bool], yes: str, act: Callable[[], None]) -> None:
    """Draws the open question. To be called outside of fragments, since the dialog stays while they are drawn anew.

    `explain` says what `act` will do, and returns whether it can be done. What either raises is shown in the dialog,
    which stays open.
    """

    def draw() -> None:
        with trouble_shown():
            may = explain()
            go, stay = st.columns(2)
            if go.button(yes, type="primary", key=f"{name}_yes", disabled=not may):
                act()
                close(name)
                st.rerun()
            if stay.button("Cancel", key=f"{name}_no"):
                close(name)
                st.rerun()

    st.dialog(title, on_dismiss=lambda: close(name))(draw)()


def close(name: str) -> None:
    st.session_state.pop(_key(name), None)


def _key(name: str) -> str:
    return f"{name}_asked"
