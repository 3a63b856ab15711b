"""Links between pages: they keep the visitor's session, and with it the key, which an address typed anew would lose."""

from collections.abc import Mapping

import streamlit as st
from streamlit.navigation.page import Page

from ui.harmless import harmless

_KNOWN = "pages_by_name"


def know(pages: Mapping[str, Page]) -> None:
    """By the names that `to` takes."""
    st.session_state[_KNOWN] = dict(pages)


def to(page: str, label: str, *, icon: str | None = None, **query: str) -> None:
    """`query`: of the address. `label` is shown as it is."""
    st.page_link(st.session_state[_KNOWN][page], label=harmless(label), icon=icon, query_params=query or None)


def go(page: str, **query: str) -> None:
    """Leaves this page for another one. Not within a callback."""
    st.switch_page(st.session_state[_KNOWN][page], query_params=query or None)
