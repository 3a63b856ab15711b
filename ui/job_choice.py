"""Choosing one of many jobs: the newest are offered, others are found on the server, and the address names the one."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from stepserve.client.errors import NotFound
from stepserve.client.results import Job
from ui import address
from ui.connection import server
from ui.format import percent
from ui.harmless import harmless

_OFFERED = 100


def eval_title(job: Job) -> str:
    """Of one that is done, which changes no more."""
    return f"{job.model_id} · {percent((job.result or {}).get('accuracy'))} · {job.id}"


def is_partial(job: Job) -> bool:
    """It is done, and made less than it was asked for."""
    return job.status == "done" and bool((job.result or {}).get("partial"))


def choose_job(
    label: str,
    parameter: str,
    *,
    type: str,
    title: Callable[[Job], str],
    status: str | None = None,
    nth: int = 0,
) -> str | None:
    """An id; None where there is none, which the page is told in words.

    `parameter`: of the address. `title`: the same as long as the job is there, so that the choice stays what it is.
    `nth`: which of them is shown at first. Raises StepserveError.
    """
    key = f"{type}_{parameter}"
    text = st.text_input("Find", key=f"{key}_text", placeholder="part of a model's name, or of an id")
    page = server().jobs_page(type, status, text.strip(), limit=_OFFERED)
    titles = {job.id: title(job) for job in page.jobs}
    named = address.named(parameter)
    if named is not None and named not in titles:
        try:
            titles[named] = title(server().get_job(named))
        except NotFound as error:
            st.warning(harmless(str(error)))
            address.forget(parameter)
    if not titles:
        st.info("No such job is there.")
        return None
    ids = list(titles)
    first = min(nth, len(ids) - 1)
    address.follow(parameter, key, ids, ids[first])
    chosen = st.selectbox(
        label,
        ids,
        index=first,
        key=key,
        format_func=lambda name: titles.get(name, name),
        on_change=partial(address.remember, parameter, key),
    )
    if page.total > len(page.jobs):
        st.caption(f"The newest {len(page.jobs)} of {page.total:,} are offered; find others by their name.")
    return chosen
