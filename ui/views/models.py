"""The registered models: register and upload, switch with its proof, go back."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from stepserve.client.results import Model
from ui import address, switch
from ui.choice import say_no_models
from ui.connection import server, trouble_shown
from ui.format import NOTHING, milliseconds, size
from ui.harmless import harmless
from ui.visitor import local

_EVERY_S = 5.0
_MOST_WARNINGS = 3


def show() -> None:
    st.title("Models")
    _registered()
    switch.show_outcome()
    for tab, form in zip(address.tabs("models_tab", ("Register", "Upload")), (_register, _upload), strict=True):
        if tab.open:
            with tab:
                form()
    _history()
    switch.confirm()


@st.fragment(run_every=_EVERY_S)
def _registered() -> None:
    """The table and the choice of what to switch to, which grow together."""
    with trouble_shown():
        models = server().list_models()
        if not models:
            say_no_models()
            return
        switch.choose(models)  # before the table, in which a keyboard takes many steps
        st.dataframe(pd.DataFrame([_row(model) for model in models]), hide_index=True)
        st.caption(f"{len(models)} registered, the newest first")
        _warn([warning for model in models for warning in model.warnings])


def _warn(warnings: list[str]) -> None:
    for warning in warnings[:_MOST_WARNINGS]:
        st.warning(harmless(f"{warning}."))
    if len(warnings) > _MOST_WARNINGS:
        st.caption(f"and {len(warnings) - _MOST_WARNINGS} warnings more")


def _row(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "active": model.is_active,
        "loaded": model.loaded,
        "step": model.step,
        "size": size(model.size_bytes),
        "architecture": model.architecture,
        "chat template": model.chat_template or ("none" if model.warnings else NOTHING),
        "tags": model.tags,
        "source": model.source,
        "registered": local(model.created_at),
        "digest": model.digest.removeprefix("sha256:")[:12],
    }


def _register() -> None:
    with st.form("models_register"):
        st.caption("A folder that lies below `models/` on the server, whole and with its tokenizer.")
        model_id = st.text_input("Id: the folder's name", key="models_register_id")
        path = st.text_input("Another path, if it lies elsewhere", key="models_register_path")
        tags = st.text_input("Tags, with commas between", key="models_register_tags")
        step = st.number_input("Training step", 0, None, None, key="models_register_step")
        template = st.text_area(
            "Chat template, if the checkpoint has none: chatml, plain, alpaca, or Jinja text",
            key="models_register_template",
        )
        asked = st.form_submit_button("Register")
    if asked and not model_id.strip():
        st.warning("Give the model's id.")
    elif asked:
        with trouble_shown(), st.spinner("Every byte is read once …"):
            registered = server(patient=True).register_model(
                model_id.strip(),
                "web",
                tags,
                path=path.strip() or None,
                step=None if step is None else int(step),
                chat_template=template if template.strip() else None,
            )
            again = " It was registered before, with the same content." if registered.existing else ""
            st.success(f"{registered.id} is registered: {registered.digest}.{again}")
            _warn(registered.warnings)


def _upload() -> None:
    with st.form("models_upload"):
        st.caption(
            "All files of the folder: config.json, tokenizer, *.safetensors. For more than 2 GB use"
            " `stepserve models push FOLDER NAME`, which goes on where it was interrupted."
        )
        model_id = st.text_input("Id", key="models_upload_id")
        files = st.file_uploader("Files", accept_multiple_files=True, key="models_upload_files")
        asked = st.form_submit_button("Upload and register")
    if asked and (not model_id.strip() or not files):
        st.warning("Give an id, and choose the checkpoint's files.")
    elif asked:
        with trouble_shown(), st.spinner("Sending …"):
            digest = _push(model_id.strip(), files)
            st.success(f"{model_id.strip()} is registered: {digest}.")


def _push(model_id: str, files: Sequence[UploadedFile]) -> str:
    with tempfile.TemporaryDirectory(prefix="stepserve-upload-") as folder:
        for file in files:
            (Path(folder) / Path(file.name).name).write_bytes(file.getbuffer())
        return server(patient=True).push_checkpoint(folder, model_id, source="web").digest


@st.fragment(run_every=_EVERY_S)
def _history() -> None:
    st.header("Switches")
    with trouble_shown(again=True):
        past = server().list_activations(limit=20)
        if not past:
            st.caption("None yet.")
            return
        rows = [
            {
                "started": local(one.started_at),
                "to": one.id,
                "from": one.previous,
                "status": f"{one.status}: {one.phase.replace('_', ' ')}" if one.phase else one.status,
                "method": one.method,
                "paused": milliseconds(one.paused_ms),
                "total": milliseconds(one.total_ms),
                "cause": one.cause,
                "error": one.error,
            }
            for one in past
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True)
