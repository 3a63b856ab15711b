"""In a line: what serves, since when, and what its last switch cost."""

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from stepserve.client.results import ActiveModel, Health, PastActivation
from ui.format import milliseconds
from ui.harmless import harmless
from ui.sidebar import DOTS
from ui.visitor import hover, local, since

_TROUBLE = {
    "loading": "A model is being loaded; requests wait or are refused until it is there.",
    "degraded": "Inference goes on; the control process does not answer: models and jobs are out of reach.",
    "error": "No engine serves. The log of api_server on the page System says why.",
}


def draw(health: Health, active: ActiveModel | None, past: Sequence[PastActivation]) -> None:
    name = active.id if active else health.active_model
    if name is None:
        st.markdown(f":{DOTS[health.status]}[●] No model is active. Register and activate one on the page Models.")
    else:
        began = f" since {local(active.since)} ({since(active.since)})" if active and active.since else ""
        said = f"**{harmless(name)}** serves{began}. {harmless(_switch(name, past))}"
        st.markdown(f":{DOTS[health.status]}[●] {said}", help=hover(active.since) if active else None)
    if health.status != "ok":
        st.markdown(f":{DOTS[health.status]}[{harmless(health.fault or _TROUBLE[health.status])}]")


def _switch(name: str, past: Sequence[PastActivation]) -> str:
    """The last switch that ended well, and whether its proof did."""
    last = next((one for one in past if one.status == "done" and one.id == name), None)
    if last is None or last.paused_ms is None:
        return "It was there when the server started."
    return f"Its switch paused requests for {milliseconds(last.paused_ms)}; {_proof(last)}."


def _proof(last: PastActivation) -> str:
    if last.proof is None:
        return "it was not proved"
    passed = "passed" if last.proof.get("passed", True) else "failed"
    proved = _moment(last.finished_at)
    return f"its proof ({last.proof.get('kind')}) {passed}{proved}"


def _moment(when: datetime | None) -> str:
    return "" if when is None else f" {since(when)}"
