"""The server that the pages speak of, the visitor's key, and what is shown when it cannot or will not answer."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import streamlit as st

from stepserve.client.client import Client
from stepserve.client.errors import (
    Forbidden,
    NotStepserve,
    StepserveError,
    TooMany,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from ui import in_browser
from ui.format import NOTHING
from ui.harmless import harmless

URL_VARIABLE = "API_URL"
_KEY = "api_key"
_PATIENCE_S = 10.0
_GENERATION_PATIENCE_S = 600.0
_Answer = TypeVar("_Answer")


def ask_for_key() -> None:
    """In the sidebar. A visitor's key lives in the visitor's session and browser tab, and nowhere else."""
    with st.sidebar:
        in_browser.draw(_KEY)
        st.text_input(
            "API key",
            type="password",
            key=_KEY,
            help="Needed when the server has keys: stepserve keys create.",
            on_change=partial(in_browser.note_change, _KEY),
        )
        st.caption(f"Server: {server().url}")


def server(*, patient: bool = False) -> Client:
    """`patient`: for what takes as long as an answer is generated. It never asks twice: pages refresh by themselves."""
    timeout_s = _GENERATION_PATIENCE_S if patient else _PATIENCE_S
    return _client(os.environ.get(URL_VARIABLE) or None, st.session_state.get(_KEY) or None, timeout_s)


def soon(call: Callable[[], _Answer]) -> "Future[_Answer]":
    """Asks the server beside what else the page asks it; `result()` gives the answer, or raises what `call` raises.

    For methods of `server()`: a thread beside the page's own draws nothing and knows no visitor.
    """
    return _askers().submit(call)


@st.cache_resource(show_spinner=False)
def _askers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(32, thread_name_prefix="asks the server")


@st.cache_resource(max_entries=64, show_spinner=False)
def _client(url: str | None, key: str | None, timeout_s: float) -> Client:
    return Client(url, api_key=key, timeout_s=timeout_s, retry_s=0)


@contextmanager
def _said_before() -> Iterator[None]:
    try:
        yield
    except (Unauthorized, Forbidden, Unreachable, NotStepserve):
        st.caption(NOTHING)
    except Unavailable as error:
        st.caption(harmless(str(error)))


@contextmanager
def trouble_shown(*, again: bool = False) -> Iterator[None]:
    """Shows in words what goes wrong inside, and what to do about it; what stands after the block is drawn still.

    `again`: for a part of a page whose first part has said it already when the server does not answer, or wants a key.
    """
    try:
        if again:
            with _said_before():
                yield
        else:
            yield
    except Unauthorized as error:
        st.error(
            f"{harmless(str(error))} Enter a key in the sidebar; `stepserve keys create` makes one.",
            icon=":material/key:",
        )
    except Forbidden as error:
        st.error(f"{harmless(str(error))} Enter a key with that scope in the sidebar.", icon=":material/block:")
    except Unreachable as error:
        st.error(
            f"{harmless(str(error))} Start it with `stepserve up`; this page goes on by itself.",
            icon=":material/cloud_off:",
        )
    except Unavailable as error:
        st.warning(harmless(str(error)), icon=":material/hourglass:")
    except TooMany as error:
        after = f" Try again in {error.retry_after_s:.0f} s." if error.retry_after_s else ""
        st.warning(f"{harmless(str(error))}{after}", icon=":material/speed:")
    except NotStepserve as error:
        st.error(f"{harmless(str(error))} Is {URL_VARIABLE} right?", icon=":material/link_off:")
    except StepserveError as error:
        st.error(harmless(str(error)), icon=":material/error:")
