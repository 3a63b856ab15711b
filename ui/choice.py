"""Choosing among what the server has."""

from collections.abc import Sequence

import streamlit as st

from stepserve.client.results import Model
from ui.connection import server

ACTIVE = "active"


def choose_model(label: str, key: str, *, and_active: bool = True, models: Sequence[Model] | None = None) -> str | None:
    """An id, or `active`; None where no model is registered, which the page is told in words.

    `models`: those of the server, where the page has just asked for them. Raises StepserveError.
    """
    if models is None:
        models = server().list_models()
    if not models:
        say_no_models()
        return None
    ids = [model.id for model in models]
    shown = {model.id: _title(model) for model in models} | {ACTIVE: "the active model"}
    options = [ACTIVE, *ids] if and_active else ids
    return st.selectbox(label, options, key=key, format_func=lambda name: shown.get(name, name))


def say_no_models() -> None:
    st.info(
        "No model is registered. Copy a checkpoint's folder below `models/` on the server and register it on the page"
        " Models, or have a trainer send it: `stepserve models push FOLDER NAME`.",
        icon=":material/deployed_code:",
    )


def _title(model: Model) -> str:
    step = "" if model.step is None else f" · step {model.step}"
    return f"{model.id}{step}{' · active' if model.is_active else ''}"
