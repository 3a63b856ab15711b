"""Choosing among what the server has."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from stepserve.client.results import Model
from ui import address
from ui.connection import server

ACTIVE = "active"


def choose_model(
    label: str,
    key: str,
    *,
    and_active: bool = True,
    preselected: bool = True,
    models: Sequence[Model] | None = None,
    parameter: str | None = None,
) -> str | None:
    """An id, or `active`; None where no model is registered, which the page is told in words, or none is chosen yet.

    `models`: those of the server, where the page has just asked for them. `parameter`: of the page's address, which
    names the chosen one. Raises StepserveError.
    """
    if models is None:
        models = server().list_models()
    if not models:
        say_no_models()
        return None
    ids = [model.id for model in models]
    shown = {model.id: _title(model) for model in models} | {ACTIVE: "the active model"}
    options = [ACTIVE, *ids] if and_active else ids
    if parameter is not None:
        address.follow(parameter, key, options, options[0] if preselected else None)
    return st.selectbox(
        label,
        options,
        index=0 if preselected else None,
        key=key,
        placeholder="Choose a model",
        on_change=None if parameter is None else partial(address.remember, parameter, key),
        format_func=lambda name: shown.get(name, name),
    )


def say_no_models() -> None:
    st.info(
        "No model is registered. Copy a checkpoint's folder below `models/` on the server and register it on the page"
        " Models, or have a trainer send it: `stepserve models push FOLDER NAME`.",
        icon=":material/deployed_code:",
    )


def _title(model: Model) -> str:
    step = "" if model.step is None else f" · step {model.step}"
    return f"{model.id}{step}{' · active' if model.is_active else ''}"
