"""What self_instruct asks a model: for new tasks, whether one is a classification, and for an instance of it."""

from collections.abc import Sequence
from typing import Final

_TASKS = "Come up with a series of tasks{about}. Write one task a line, numbered, and nothing else.\n\n{tasks}\n{next}."
_PROBLEMS = (
    "Come up with a series of mathematical problems, each with one answer that can be checked. Write one problem a"
    " line, numbered, and nothing else.\n\n{tasks}\n{next}."
)
IS_CLASSIFICATION: Final = (
    "Is the answer to the following task one of a small fixed set of labels? Say yes or no.\n\n"
    "Task: Say whether the review is positive or negative.\nYes\n\n"
    "Task: Write a short letter of thanks to a neighbour.\nNo\n\n"
    "Task: Decide which of the two sentences is grammatical.\nYes\n\n"
    "Task: Explain why the sky is blue.\nNo\n\n"
    "Task: {instruction}\n"
)
INPUT_FIRST: Final = (
    "Give one example of the following task, in this form:\nInput: what the task is applied to (None if it needs no"
    " input)\nOutput: the right and complete answer\n\nTask: {instruction}"
)
OUTPUT_FIRST: Final = (
    "The following task asks for a label. For each possible label write one example, in this form:\nLabel: the"
    " label\nInput: a text that this label is right for\n\nTask: {instruction}"
)


def list_prompt(shown: Sequence[str], domain: str, *, problems: bool) -> str:
    """Asks for more of a numbered list that begins with what is shown. `problems`: mathematical ones."""
    return (_PROBLEMS if problems else _TASKS).format(
        about=f" in the field of {domain}" if domain else "",
        tasks="\n".join(f"{place}. {' '.join(task.split())}" for place, task in enumerate(shown, start=1)),
        next=len(shown) + 1,
    )
