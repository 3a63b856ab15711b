"""What is shown is in the page's address, so that it can be sent to somebody, reloaded, and gone back to.

Widgets whose options are the words that are shown have Streamlit's own `bind="query-params"`. These are for the others:
an address names a record by its id, whatever its title is, and says nothing of what is shown by default.
"""

from collections.abc import Sequence
from functools import partial

import streamlit as st
from streamlit.elements.lib.mutable_tab_container import TabContainer


def follow(parameter: str, key: str, options: Sequence[str], default: str | None) -> None:
    """Before the widget `key` is drawn: it shows what the address names, where that is one of `options`.

    Its `on_change` has to be `remember`. The browser's way back changes the address and nothing else, so an address
    that names nothing any more leads to `default`.
    """
    now, before = named(parameter), st.session_state.get(_seen(key))
    st.session_state[_seen(key)] = now
    if now in options:
        if st.session_state.get(key) != now:
            st.session_state[key] = now
    elif now is None and before is not None:
        st.session_state[key] = default


def remember(parameter: str, key: str) -> None:
    """Puts what the widget shows into the address."""
    if (chosen := st.session_state.get(key)) is None:
        forget(parameter)
    else:
        go_to(parameter, str(chosen))


def tabs(key: str, labels: Sequence[str]) -> Sequence[TabContainer]:
    """`st.tabs` with the open one in the address; each has `open`."""
    follow("tab", key, labels, labels[0])
    return st.tabs(labels, key=key, on_change=partial(remember, "tab", key))


def named(parameter: str) -> str | None:
    found: str | None = st.query_params.get(parameter)
    return found


def go_to(parameter: str, name: str) -> None:
    st.query_params[parameter] = name


def forget(parameter: str) -> None:
    st.query_params.pop(parameter, None)


def _seen(key: str) -> str:
    return f"{key}_in_address"
