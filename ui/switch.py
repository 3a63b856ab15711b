"""Switching to another model: nothing is chosen at first, a question comes before it, its end is told whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from stepserve.client.calls import InFlight, Method
from stepserve.client.client import Client
from stepserve.client.errors import Failed, Forbidden, Invalid, Unavailable
from stepserve.client.results import Activation, Model, PastActivation
from ui import question
from ui.choice import choose_model
from ui.connection import server
from ui.format import NOTHING, milliseconds
from ui.harmless import cut, harmless

_METHODS: tuple[Method, ...] = ("auto", "in_place", "blue_green", "restart")
_IN_FLIGHT: dict[InFlight, str] = {
    "finish": "are answered to their end first",
    "keep": "go on where they are, with the new weights",
    "abort": "are ended with an error",
}
_QUESTION = "models_switch"
_OUTCOME = "models_outcome"
_LOOKED_BACK = 100
_NOW_S = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """`model_id` None: back to the model that was active before."""

    model_id: str | None
    method: Method = "auto"
    in_flight: InFlight = "finish"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a switch ended: one of the two."""

    done: Activation | None = None
    failed: PastActivation | None = None


def choose(models: Sequence[Model]) -> None:
    """The controls. May be drawn within a fragment. Raises StepserveError."""
    chosen = choose_model("Switch to", "models_target", and_active=False, models=models, preselected=False)
    with st.expander("How"):
        method = st.selectbox(
            "Method",
            _METHODS,
            key="models_method",
            help="auto: in place where that is possible, else blue/green, else restart.",
        )
        in_flight = st.selectbox(
            "Requests under way",
            list(_IN_FLIGHT),
            key="models_in_flight",
            format_func=lambda name: f"{name}: they {_IN_FLIGHT[name]}",
        )
    go, back = st.columns(2)
    if go.button("Activate …", type="primary", key="models_activate", disabled=chosen is None):
        _ask(Wish(chosen, method, in_flight))
    if back.button("Roll back to the one before …", key="models_roll_back"):
        _ask(Wish(None))


def show_outcome() -> None:
    """How the last switch that was asked for here ended."""
    outcome: Outcome | None = st.session_state.get(_OUTCOME)
    if outcome is None:
        return
    if outcome.failed is not None:
        st.error(harmless(failure(outcome.failed)))
        _proof(outcome.failed, "What its proof found")
    elif (done := outcome.done) is not None:
        st.success(harmless(f"{done.id} serves; before it {done.previous or 'none'}."))
        method, paused, total, drained = st.columns(4)
        method.metric("Method", done.method or NOTHING)
        paused.metric("Requests paused for", milliseconds(done.paused_ms))
        total.metric("The whole switch", milliseconds(done.total_ms))
        drained.metric("Requests under way", NOTHING if done.in_flight is None else done.in_flight)
        _proof(done, "The proof that the new weights answer")


def confirm() -> None:
    """The question, where one is open. To be called outside of fragments."""
    wish: Wish | None = question.asked(_QUESTION)
    if wish is None:
        return
    title = "Roll back?" if wish.model_id is None else harmless(f"Activate {wish.model_id}?")
    yes = "Roll back" if wish.model_id is None else "Activate"

    def act() -> None:
        with st.spinner("Switching …"):
            st.session_state[_OUTCOME] = _switch(wish)

    question.answered(_QUESTION, title, lambda: _explain(wish), yes, act)


def failure(ended: PastActivation) -> str:
    """Why, what serves now, and what it cost."""
    serves = f"{ended.rolled_back_to} serves" if ended.rolled_back_to else "No model serves"
    paused = f"; requests were paused for {milliseconds(ended.paused_ms)}" if ended.paused_ms is not None else ""
    return f"{ended.id} was not activated: {(ended.error or 'no reason was given').rstrip('.')}. {serves}{paused}."


def _ask(wish: Wish) -> None:
    st.session_state.pop(_OUTCOME, None)
    question.ask(_QUESTION, wish)


def _explain(wish: Wish) -> bool:
    """Raises StepserveError."""
    there = server()
    models = {model.id: model for model in there.list_models()}
    past = there.list_activations(limit=_LOOKED_BACK)
    active = next((model.id for model in models.values() if model.is_active), None)
    target = wish.model_id or _before(past, models, active)
    if target is None:
        st.warning("No earlier model is still registered as it was: there is nothing to go back to.")
        return False
    if target not in models:
        st.warning(harmless(f"{target} is not registered any more."))
        return False
    st.text(cut(f"{active or 'no model'} → {target}"))
    _last_proof(past, models[target])
    now = _under_way(there)
    st.write(f"Requests under way {_IN_FLIGHT[wish.in_flight]}; new ones wait.{now}")
    st.write(_expected_pause(past, wish.method))
    return True


def _under_way(there: Client) -> str:
    """Empty for a key that may not see it, and while the server cannot say."""
    try:
        samples = there.history(_NOW_S, 1)["samples"]
    except (Forbidden, Unavailable):
        return ""
    if not samples or samples[-1]["running"] is None:
        return ""
    return f" Now {samples[-1]['running']:.0f} are answered and {samples[-1]['waiting']:.0f} wait."


def _before(past: Sequence[PastActivation], models: dict[str, Model], active: str | None) -> str | None:
    """As the server chooses it: the last one before that is still registered as it was."""
    for one in past:
        model = models.get(one.id)
        if one.status == "done" and one.id != active and model is not None and model.digest == one.digest:
            return one.id
    return None


def _last_proof(past: Sequence[PastActivation], model: Model) -> None:
    last = next((one for one in past if one.id == model.id and one.digest == model.digest), None)
    if last is None:
        st.caption("It was not active before. It is proved before it answers anybody.")
    elif last.status == "failed":
        st.warning(harmless(f"The last switch to it failed: {last.error or 'no reason was given'}"))
    elif last.proof is not None:
        st.caption(harmless(f"When it became active last it passed its proof ({last.proof.get('kind')})."))


def _expected_pause(past: Sequence[PastActivation], method: Method) -> str:
    alike = (one for one in past if one.status == "done" and one.paused_ms is not None)
    last = next((one for one in alike if method in {"auto", one.method}), None)
    if last is None:
        return "How long requests will be paused is not known: there was no such switch before."
    return f"The last such switch ({last.method}) paused requests for {milliseconds(last.paused_ms)}."


def _switch(wish: Wish) -> Outcome:
    """Raises StepserveError where no switch was begun, or nobody knows how it ended."""
    patient = server(patient=True)
    newest = max((one.activation_id for one in patient.list_activations(limit=1)), default=0)
    try:
        if wish.model_id is None:
            return Outcome(done=patient.roll_back())
        done = patient.set_active_model(wish.model_id, method=wish.method, in_flight=wish.in_flight)
        return Outcome(done=done)
    except (Failed, Invalid):
        for ended in patient.list_activations(limit=_LOOKED_BACK):
            if ended.activation_id > newest and ended.status == "failed" and wish.model_id in {None, ended.id}:
                return Outcome(failed=ended)
        raise


def _proof(ended: Activation, title: str) -> None:
    if ended.proof:
        with st.expander(title):
            st.json(ended.proof)
