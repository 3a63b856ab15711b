"""Problems whose answer, or code, is set apart from the way there."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from ui import address, reading
from ui.choice import choose_model
from ui.connection import server, trouble_shown
from ui.harmless import cut, harmless, newest
from ui.talk import Solution


@dataclass(frozen=True, slots=True)
class Task:
    """`result` is the field of the answer that is set apart."""

    route: str
    result: str
    temperature: float
    max_tokens: int
    examples: tuple[str, ...]


MATH = Task(
    "/solve/math",
    "answer",
    0.7,
    512,
    (
        "What is 17+25?",
        "A train leaves at 14:35 and arrives at 17:05. How many minutes does it take?",
        "Two numbers add up to 30 and differ by 4. Which are they?",
    ),
)
CODING = Task(
    "/solve/coding",
    "code",
    0.8,
    1024,
    (
        "Write a Python function that returns the n-th Fibonacci number.",
        "Write a Python function that says whether a string is a palindrome, ignoring case and spaces.",
        "Write a SQL query for the three customers with the highest total of orders.",
    ),
)


def show() -> None:
    st.title("Solve")
    with trouble_shown():
        model = choose_model("Model", "solve_model", parameter="model")
        if model is None:
            return
        for tab, task in zip(address.tabs("solve_tab", ("Math", "Coding")), (MATH, CODING), strict=True):
            if tab.open:
                with tab:
                    _tab(task, model)


def _tab(task: Task, model: str) -> None:
    name = task.route.rpartition("/")[2]
    example = st.selectbox(
        "An example", task.examples, index=None, placeholder="or write your own", key=f"{name}_example"
    )
    with st.form(f"{name}_form"):
        problem = st.text_area("Problem", value=example or "", key=f"{name}_problem_{example}", height=120)
        heat, length = st.columns(2)
        temperature = heat.slider("Temperature", 0.0, 2.0, task.temperature, 0.05, key=f"{name}_temperature")
        max_tokens = length.number_input("Longest answer, in tokens", 1, 131_072, task.max_tokens, key=f"{name}_tokens")
        asked = st.form_submit_button("Solve", type="primary")
    if asked and not problem.strip():
        st.warning("Write a problem first, or choose an example.")
    elif asked:
        with trouble_shown():
            body = {
                "problem": problem,
                "temperature": temperature,
                "max_new_tokens": int(max_tokens),
                "model_id": model,
            }
            st.session_state[f"{name}_solved"] = _streamed(Solution(server(patient=True), task.route, body))
    if solved := st.session_state.get(f"{name}_solved"):
        _solution(task, solved)


def _streamed(solution: Solution) -> dict[str, Any] | None:
    """Draws it as it comes; what is left is the last event. Raises StepserveError."""
    place = st.empty()
    (read,) = reading.read([solution], lambda _: place.text(newest(solution.text)))
    place.empty()
    read.result()
    return solution.result


def _solution(task: Task, solved: dict[str, Any]) -> None:
    st.caption(harmless(f"{solved['problem']} · {solved['generation_time']} s"))
    found = solved.get(task.result)
    if found is None:
        st.warning(f"No {task.result} could be told apart in the solution.")
    else:
        st.caption(f"Extracted {task.result}, not checked")
        st.code(cut(str(found)), language=None, wrap_lines=task.result != "code")
    with st.expander("The whole solution", expanded=found is None):
        st.text(cut(str(solved["solution"])))
