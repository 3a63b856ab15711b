"""Chat with up to four models beside each other: what they think, how sure they are, what they would call."""

from collections.abc import Sequence
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ui import address, reading, token_colours
from ui.choice import ACTIVE, say_no_models
from ui.connection import server, trouble_shown
from ui.conversation import MOST_MODELS, Conversation, Turn, as_curl, as_python, asked_again
from ui.harmless import MOST_CHARACTERS, as_markdown, cut, harmless, newest
from ui.talk import Talk

_SAID = "playground_said"
_MODELS = "playground_models"
_LINK = "conversation"
_MARKDOWN = "playground_markdown"
_DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 256.0}


def show() -> None:
    st.title("Playground")
    _take_link()
    with trouble_shown():
        models = _choose()
        if not models:
            return
        talk = _controls(models)
        st.toggle(
            "Draw as Markdown",
            key=_MARKDOWN,
            help="Without it what was said is shown as it is. Images are never fetched.",
        )
        _converse(talk)


def _take_link() -> None:
    """A conversation that the address has in it is shown, once."""
    text = address.named(_LINK)
    if text is None:
        return
    address.forget(_LINK)
    there = Conversation.of_link(text)
    if there is None:
        st.warning("The address holds no whole conversation: perhaps it was cut.")
        return
    st.session_state[_SAID] = there.histories
    st.session_state[_MODELS] = there.models
    st.session_state["playground_system"] = there.system
    st.session_state["playground_schema"] = there.schema_text
    st.session_state["playground_tools"] = there.tools_text
    st.session_state["playground_logprobs"] = there.logprobs
    for name, value in {**_DEFAULTS, **there.sampling}.items():
        st.session_state[f"playground_{name}"] = value if name in {"temperature", "top_p"} else int(value)


def _choose() -> list[str]:
    """Raises StepserveError."""
    there = server().list_models()
    if not there:
        say_no_models()
        return []
    options = [ACTIVE, *(model.id for model in there)]
    if _MODELS not in st.session_state:
        named = (address.named("models") or ACTIVE).split(",")
        st.session_state[_MODELS] = [name for name in named if name in options][:MOST_MODELS] or [ACTIVE]
    st.session_state[_MODELS] = [name for name in st.session_state[_MODELS] if name in options]
    chosen: list[str] = st.multiselect(
        f"Models, up to {MOST_MODELS} side by side",
        options,
        key=_MODELS,
        max_selections=MOST_MODELS,
        format_func=lambda name: "the active model" if name == ACTIVE else name,
    )
    address.go_to("models", ",".join(chosen)) if chosen not in ([], [ACTIVE]) else address.forget("models")
    if not chosen:
        st.info("Choose a model.")
    return chosen


def _controls(models: list[str]) -> Conversation:
    for name, value in _DEFAULTS.items():
        st.session_state.setdefault(f"playground_{name}", int(value) if name == "max_tokens" else value)
    with st.expander("System prompt, sampling, structure and tools"):
        system = st.text_area("System prompt", key="playground_system", height=80)
        temperature = st.slider("Temperature", 0.0, 2.0, step=0.05, key="playground_temperature")
        top_p = st.slider("Top p", 0.05, 1.0, step=0.05, key="playground_top_p")
        max_tokens = st.number_input("Longest answer, in tokens", 1, 131_072, key="playground_max_tokens")
        st.session_state.setdefault("playground_seed", -1)
        seeded = st.number_input("Seed (-1: another each time)", -1, 2**31 - 1, key="playground_seed")
        logprobs = st.toggle("Colour tokens by how likely they were", key="playground_logprobs")
        schema = st.text_area(
            "JSON schema of the answer",
            key="playground_schema",
            height=80,
            placeholder='{"type": "object", "properties": {"sum": {"type": "integer"}}}',
        )
        tools = st.text_area("Tools, as a JSON list of OpenAI's form", key="playground_tools", height=80)
    sampling: dict[str, int | float] = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens)}
    return Conversation(
        models=models,
        system=system,
        sampling=sampling | ({"seed": int(seeded)} if seeded >= 0 else {}),
        schema_text=schema,
        tools_text=tools,
        logprobs=logprobs,
        histories=_histories(len(models)),
    )


def _histories(count: int) -> list[list[Turn]]:
    """One a model; those of models that were taken away are kept for when they come back."""
    kept: list[list[Turn]] = st.session_state.setdefault(_SAID, [])
    kept += [[] for _ in range(count - len(kept))]
    return kept[:count]


def _converse(talk: Conversation) -> None:
    asked = st.chat_input("Ask, for example: What is 17+25?", key="playground_ask")
    if any(talk.histories) and st.button("Begin anew", key="playground_anew"):
        st.session_state[_SAID] = []
        talk.histories = _histories(len(talk.models))
    if not asked and not any(talk.histories):
        st.caption("Nothing has been said yet. The demo model knows sums of two numbers below 100.")
    try:
        options = talk.options()
    except ValueError as error:
        st.warning(harmless(f"{error}."))
        return
    histories = _histories(len(talk.models))
    columns = st.columns(len(talk.models))
    for number, column in enumerate(columns):
        with column:
            if len(talk.models) > 1:
                st.caption(harmless(talk.models[number]))
            for place, turn in enumerate(histories[number]):
                _turn(turn, f"{number}_{place}")
    if asked:
        _ask(talk, columns, asked, options, histories)
    if any(histories):
        _share(talk.model_copy(update={"histories": histories}), options)


def _ask(
    talk: Conversation,
    columns: Sequence[DeltaGenerator],
    asked: str,
    options: dict[str, Any],
    histories: Sequence[list[Turn]],
) -> None:
    """All models at the same time. What fails is not kept, so that it can be asked again."""
    question = Turn(role="user", content=asked)
    there = server(patient=True)
    answers, messages, places = [], [], []
    for number, column in enumerate(columns):
        answers.append(Talk(there, talk.models[number], [*talk.messages(number), question.message()], **options))
        with column:
            _turn(question)
            messages.append(st.chat_message("assistant"))
            places.append(messages[-1].empty())
    reads = reading.read(
        answers, lambda number: _say(places[number], newest(answers[number].text or answers[number].thought))
    )
    for number, read in enumerate(reads):
        with messages[number], trouble_shown():
            read.result()
            said = _turn_of(answers[number])
            with places[number].container():
                _said(said, f"{number}_{len(histories[number]) + 1}")
            histories[number].extend([question, said])


def _turn_of(answer: Talk) -> Turn:
    return Turn(
        role="assistant",
        content=answer.text,
        thought=answer.thought,
        calls=answer.calls,
        likely=answer.likely,
        note=f"{answer.model} · {answer.summary}",
    )


def _say(place: Any, text: str) -> None:
    if st.session_state.get(_MARKDOWN):
        place.markdown(as_markdown(text))
    else:
        place.text(cut(text))


def _turn(turn: Turn, name: str = "") -> None:
    with st.chat_message(turn.role):
        _said(turn, name)


def _said(turn: Turn, name: str) -> None:
    """`name`: of the turn among all that are shown."""
    if turn.thought:
        with st.expander("Thinking"):
            st.text(cut(turn.thought))
    if turn.likely:
        token_colours.draw(turn.likely)
    elif turn.content or not turn.calls:
        _say(st, turn.content)
    for call in turn.calls:
        st.code(cut(f"{call['name']}({call['arguments']})"), language=None, wrap_lines=True)
    if turn.note:
        st.caption(harmless(turn.note))
    if len(turn.content) > MOST_CHARACTERS and turn.role == "assistant":
        st.download_button("Download the whole answer", turn.content, "answer.txt", key=f"playground_save_{name}")


def _share(talk: Conversation, options: dict[str, Any]) -> None:
    with st.expander("As a link, as curl, as Python"):
        link = talk.link()
        if link is None:
            st.caption("The conversation is too long for an address.")
        else:
            here = str(st.context.url or "").partition("?")[0]
            st.code(f"{here}?{_LINK}={link}", language=None, wrap_lines=True)
        for number, model in enumerate(talk.models):
            body = {"model": model, "messages": asked_again(talk.messages(number)), **options}
            st.caption(harmless(model))
            curl = as_curl(server().url, body)
            if len(curl) > MOST_CHARACTERS:
                st.caption("The request is too long to be shown.")
                continue
            st.code(curl, language="bash", wrap_lines=True)
            st.code(as_python(server().url, body), language="python", wrap_lines=True)
