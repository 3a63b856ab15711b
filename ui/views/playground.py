"""Chat with any model, and with a second one beside it."""

from typing import Any

import streamlit as st

from ui.choice import choose_model
from ui.connection import server, trouble_shown
from ui.harmless import as_markdown, cut, harmless
from ui.talk import Talk

_SAID = "playground_said"

_MARKDOWN = "playground_markdown"
_REDRAW_S = 0.1

Turn = dict[str, str]


def show() -> None:
    st.title("Playground")
    with trouble_shown():
        beside = st.toggle("Side by side with a second model", key="playground_beside", bind="query-params")
        columns = [*st.columns(2)] if beside else [st.container()]
        models = []
        for number, column in enumerate(columns):
            with column:
                first = number == 0
                model = choose_model(
                    "Model" if first else "Second model",
                    f"playground_model_{number}",
                    parameter="model" if first else "second",
                )
            if model is None:
                return
            models.append(model)
        system, sampling = _controls()
        st.toggle(
            "Draw as Markdown",
            key=_MARKDOWN,
            help="Without it what was said is shown as it is. Images are never fetched.",
        )
        _conversation(models, columns, system, sampling)


def _controls() -> tuple[str, dict[str, Any]]:
    with st.expander("System prompt and sampling"):
        system = st.text_area("System prompt", key="playground_system", height=80)
        temperature = st.slider("Temperature", 0.0, 2.0, 0.7, 0.05, key="playground_temperature")
        top_p = st.slider("Top p", 0.05, 1.0, 1.0, 0.05, key="playground_top_p")
        max_tokens = st.number_input("Longest answer, in tokens", 1, 131_072, 256, key="playground_max_tokens")
        seeded = st.number_input("Seed (-1: another each time)", -1, 2**31 - 1, -1, key="playground_seed")
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens)}
    return system, sampling | ({"seed": int(seeded)} if seeded >= 0 else {})


def _conversation(models: list[str], columns: list[Any], system: str, sampling: dict[str, Any]) -> None:
    """One history a column, so that each model goes on from its own answers."""
    histories: list[list[Turn]] = st.session_state.setdefault(_SAID, [[], []])
    asked = st.chat_input("Ask, for example: What is 17+25?", key="playground_ask")
    if any(histories) and st.button("Begin anew", key="playground_anew"):
        st.session_state[_SAID] = histories = [[], []]
    if not asked and not any(histories):
        st.caption("Nothing has been said yet. The demo model knows sums of two numbers below 100.")
    for model, column, history in zip(models, columns, histories, strict=False):
        with column:
            for turn in history:
                _turn(turn)
            if asked:
                _exchange(model, history, asked, system, sampling)


def _exchange(model: str, history: list[Turn], asked: str, system: str, sampling: dict[str, Any]) -> None:
    """What fails is not kept, so that it can be asked again."""
    question = {"role": "user", "content": asked}
    _turn(question)
    before = [{"role": "system", "content": system}] if system.strip() else []
    said = [{"role": turn["role"], "content": turn["content"]} for turn in (*history, question)]
    talk = Talk(server(patient=True), model, [*before, *said], **sampling)
    with st.chat_message("assistant"), trouble_shown():
        _streamed(talk)
        note = f"{talk.model} · {talk.summary}"
        st.caption(harmless(note))
        history += [question, {"role": "assistant", "content": talk.text, "note": note}]


def _streamed(talk: Talk) -> None:
    """Draws the whole answer anew, so not for each token of a fast one. Raises StepserveError."""
    place, drawn_s = st.empty(), 0.0
    try:
        for _ in talk:
            if talk.total_s - drawn_s >= _REDRAW_S:
                _say(place, talk.text)
                drawn_s = talk.total_s
    finally:
        _say(place, talk.text)


def _say(place: Any, text: str) -> None:
    if st.session_state.get(_MARKDOWN):
        place.markdown(as_markdown(text))
    else:
        place.text(cut(text))


def _turn(turn: Turn) -> None:
    with st.chat_message(turn["role"]):
        _say(st, turn["content"])
        if "note" in turn:
            st.caption(harmless(turn["note"]))
