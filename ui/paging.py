"""Pages of a list that the server has: one page is asked for at a time. Its number is in the address."""

from functools import partial

import streamlit as st

from ui import address

_LAST = 1_000_000  # page; whatever the address says, the server is asked for no more


def offset_of(key: str, size: int) -> int:
    """How many come before the page that the visitor is on."""
    return size * (_number(key) - 1)


def controls(key: str, shown: int, total: int, size: int) -> None:
    """Where one is in the whole, and the way to other pages.

    `shown` of `total` are those after `offset_of`.
    """
    first, number = offset_of(key, size), _number(key)
    pages = max(1, (total - 1) // size + 1)
    where, back, on, go = st.columns([4, 1, 1, 2], vertical_alignment="bottom")
    where.caption(f"{first + 1:,} to {first + shown:,} of {total:,}" if shown else f"There are no more than {total:,}.")
    if (last := max(pages, number)) > 1:
        st.session_state[key] = number
        for place, label, to in ((back, "Previous", number - 1), (on, "Next", number + 1)):
            place.button(
                label,
                key=f"{key}_{label}",
                disabled=not 1 <= to <= last,
                on_click=partial(address.go_to, key, str(to)),
            )
        go.number_input(f"Page of {pages:,}", 1, last, key=key, on_change=partial(address.remember, key, key))


def begin_anew(key: str) -> None:
    """For what changes which rows there are."""
    address.forget(key)


def _number(key: str) -> int:
    """The address may say anything."""
    try:
        return max(1, min(int(address.named(key) or 1), _LAST))
    except ValueError:
        return 1
