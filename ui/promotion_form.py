"""Starting a promotion. Nothing is chosen that could do harm: not the candidate, and not that it becomes active."""

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from stepserve.client.results import Model
from ui import address, question
from ui.choice import ACTIVE, choose_model, say_no_models
from ui.connection import server, trouble_shown
from ui.format import percent
from ui.harmless import harmless
from ui.promotion_words import ACTIVATE

PARAMETER = "promotion"
_QUESTION = "promotions_start"
_MADE = "promotions_made"
_CANDIDATE = "promotions_candidate"
# Those whose values have bounds, which a promotion needs; others can be typed in.
_METRICS = (
    "accuracy", "numeric", "math", "multiple_choice", "acc", "acc_norm", "exact_match", "f1", "rouge_l", "bleu", "chrf",
    "pass@1", "judge",
)  # fmt: skip
_TESTS = {
    "superior": "Is it better in something, and worse in nothing?",
    "non_inferior": "Is it as good, or better?",
}
_AFTERWARDS = {
    "notify": "Only say what came out",
    ACTIVATE: "Make it the active model, if it is promoted",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """`in_points`: what is asked for is a difference of shares; else it is a ratio, 1 at least."""

    label: str
    in_points: bool


_GUARDS = {
    "truncated": Guard("Answers cut off: at most so many points more", in_points=True),
    "unparsed": Guard("Answers in which nothing is found: at most so many points more", in_points=True),
    "tokens": Guard("Tokens of an answer: at most so many times the baseline's", in_points=False),
    "latency": Guard("Seconds of an answer: at most so many times the baseline's", in_points=False),
}


@dataclass(frozen=True, slots=True)
class Wish:
    candidate: str
    suite: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def switches(self) -> bool:
        return bool(self.more["on_pass"] == ACTIVATE)


def draw() -> None:
    with trouble_shown():
        if (made := st.session_state.pop(_MADE, None)) is not None:
            st.session_state[_CANDIDATE] = None  # a second click starts no second promotion
            st.success(harmless(f"{made} is under way. The tab Decisions shows it."))
        wish = _wish()
        if wish is None:
            return
        if st.button("Start", type="primary", key="promotions_go"):
            if wish.switches:
                question.ask(_QUESTION, wish)
            _start(wish)
            st.rerun()


def confirm() -> None:
    """To be called at the page's end: the dialog before a promotion that may switch."""
    wish: Wish | None = question.asked(_QUESTION)
    if wish is None:
        return

    def explain() -> bool:
        st.write(harmless(_consequence(wish)))
        st.caption("Nothing is switched when it is refused, or open.")
        return True

    question.answered(_QUESTION, "May it switch by itself?", explain, "Start it", lambda: _start(wish))


def _consequence(wish: Wish) -> str:
    canary = wish.more.get("canary")
    at_first = ""
    if canary is not None:
        asks = "is asked" if canary["shadow"] else "answers"
        at_first = f" At first it {asks} {percent(canary['share'])} of the live requests for {canary['seconds']:g} s."
    return (
        f"If {wish.candidate} is promoted, it becomes the active model without another question: it answers everybody"
        f" who asks for `active`.{at_first}"
    )


def _start(wish: Wish) -> None:
    """Raises StepserveError."""
    made = server().promote(wish.candidate, wish.suite, **wish.more)
    st.session_state[_MADE] = made.job_id
    address.go_to(PARAMETER, made.job_id)


def _wish() -> Wish | None:
    """What the form says so far; None while something is missing, which the form says. Raises StepserveError."""
    models = server().list_models()
    if not models:
        say_no_models()
        return None
    candidate = _candidate(models)
    baseline = choose_model("Compared with", "promotions_baseline", models=models) or ACTIVE
    suite = _suite()
    rule, more = _rule(), _more()
    on_pass = st.radio("And then", list(_AFTERWARDS), key="promotions_on_pass", format_func=_AFTERWARDS.__getitem__)
    if on_pass == ACTIVATE and (canary := _canary([model.id for model in models if model.id != candidate])) is not None:
        more["canary"] = canary
    if candidate is None or not suite:
        st.caption("Choose a candidate and at least one dataset.")
        return None
    return Wish(candidate, suite, {"baseline": baseline, "rule": rule, "on_pass": on_pass, **more})


def _candidate(models: list[Model]) -> str | None:
    ids = [model.id for model in models if not model.is_active]
    if not ids:
        st.info("Only the active model is registered: there is no candidate yet.", icon=":material/deployed_code:")
    chosen: str | None = st.selectbox(
        "Candidate", ids, index=None, key=_CANDIDATE, placeholder="Which model wants the place?"
    )
    return chosen


def _suite() -> list[dict[str, Any]]:
    """A metric for each dataset that is chosen. Raises StepserveError."""
    names = [one.name for one in server().list_datasets()]
    if not names:
        st.info("There is no dataset. Put one on the server on the page Evals.")
    chosen = st.multiselect("Datasets", names, key="promotions_datasets")
    suite = []
    for name in chosen:
        metric = st.selectbox(
            f"Measure of {harmless(name)}",
            _METRICS,
            key=f"promotions_metric_{name}",
            accept_new_options=True,
            help="Each has values between 0 and 1. A metric of your own can be typed in.",
        )
        suite.append({"dataset_ref": name, "metric": metric})
    return suite


def _rule() -> dict[str, Any]:
    test = st.radio("Question", list(_TESTS), key="promotions_test", format_func=_TESTS.__getitem__)
    margin = st.number_input(
        "So many points worse still count as no worse", 0.0, 50.0, 2.0, 0.5, key="promotions_margin"
    )
    return {"test": test, "margin": margin / 100}


def _more() -> dict[str, Any]:
    more: dict[str, Any] = {}
    with st.expander("Limits"):
        if most := st.number_input("Questions of each dataset, at most", 1, 20_000, None, key="promotions_most"):
            more["max_samples"] = int(most)
        guards = {}
        for name, guard in _GUARDS.items():
            least = 0.0 if guard.in_points else 1.0
            limit = st.number_input(guard.label, least, 100.0, None, key=f"promotions_guard_{name}")
            if limit is not None:
                guards[name] = limit / 100 if guard.in_points else limit
        if guards:
            more["guards"] = guards
    return more


def _canary(judges: list[str]) -> dict[str, Any] | None:
    if not st.toggle("Try it on some of the live requests first", key="promotions_canary"):
        return None
    shadow = st.toggle(
        "Without anybody getting its answers",
        key="promotions_shadow",
        help="The active model answers, and the candidate is asked the same afterwards.",
    )
    share = st.number_input("Share of the requests, in percent", 0.1, 50.0, 5.0, 1.0, key="promotions_share")
    minutes = st.number_input("For so many minutes", 1, 24 * 60, 10, key="promotions_minutes")
    least = st.number_input(
        "Open with fewer requests than",
        1,
        1_000_000,
        20,
        key="promotions_least",
        help="A candidate that was asked less often has shown nothing, so nothing is switched.",
    )
    judge = st.selectbox(
        "A model that reads answers of both",
        judges,
        index=None,
        key="promotions_judge",
        placeholder="None",
        help="It ends the canary when 10 points fewer of the candidate's answers are good.",
    )
    asked = {"share": share / 100, "seconds": 60.0 * minutes, "shadow": shadow, "min_requests": int(least)}
    return asked if judge is None else asked | {"judge": {"model": judge}}
