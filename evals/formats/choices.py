"""Formats of a question with choices: MMLU, ARC, HellaSwag. The target is the right choice's letter."""

import re
from typing import Any

from evals.formats.content import Content, Fields, Format
from evals.formats.fields import kind_of, text, texts
from evals.sample import LETTERS, BrokenLine

_MOST_CHOICES = len(LETTERS)
_BRACKETED = re.compile(r"\[.*?\]")


def choice_content(question: str, choices: tuple[str, ...], right: Any, name: str) -> Content:
    """`right` is an index from 0, a letter, or the text of a choice; `name` is its field. Raises BrokenLine."""
    if not 2 <= len(choices) <= _MOST_CHOICES:
        raise BrokenLine(f"it has {len(choices)} choices: 2 to {_MOST_CHOICES} can be told apart by letters")
    letter = LETTERS[_index(choices, right, name)]
    return Content(input=question, target=letter, form="letter", choices=choices)


def _index(choices: tuple[str, ...], right: Any, name: str) -> int:
    if isinstance(right, str):
        stripped = right.strip()
        if stripped in choices:  # before letters: the choices themselves may be single letters or digits
            return choices.index(stripped)
        if len(stripped) == 1 and stripped.upper() in LETTERS[: len(choices)]:
            return LETTERS.index(stripped.upper())
        right = int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 3 else right
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices):
        return right
    said = repr(right)[:40] if isinstance(right, str | int | float) else kind_of(right)
    raise BrokenLine(
        f"{name!r} is {said}: neither an index from 0 to {len(choices) - 1}, nor one of the letters"
        f" {LETTERS[: len(choices)]}, nor a choice"
    )


def _mmlu(fields: Fields) -> Content:
    return choice_content(text(fields, "question"), texts(fields, "choices"), fields["answer"], "answer")


def _arc(fields: Fields) -> Content:
    choices = fields["choices"]
    if not isinstance(choices, dict) or not {"text", "label"} <= choices.keys():
        raise BrokenLine("'choices' must be an object with 'text' and 'label'")
    labels, answers = texts(choices, "label"), texts(choices, "text")
    key = fields["answerKey"]
    if len(labels) != len(answers):
        raise BrokenLine(f"'choices' has {len(answers)} texts and {len(labels)} labels")
    if key not in labels:
        raise BrokenLine(f"'answerKey' is {str(key)[:40]!r}, the labels are {', '.join(labels)}")
    return choice_content(text(fields, "question"), answers, labels.index(key), "answerKey")


def _hellaswag(fields: Fields) -> Content:
    """Brackets of the source (`[header]`, `[title]`) are taken out as the benchmark's usual preparation does."""
    label = fields["label"]
    begin = text(fields, "ctx")
    topic = fields.get("activity_label")
    context = f"{topic}: {begin}" if isinstance(topic, str) and topic.strip() else begin
    endings = tuple(_tidy(ending) or ending for ending in texts(fields, "endings"))
    return choice_content(_tidy(context) or context, endings, label, "label")


def _tidy(passage: str) -> str:
    passage = passage.strip().replace(" [title]", ". ")
    return _BRACKETED.sub("", passage).replace("  ", " ").strip()


FORMATS = (
    Format("mmlu", frozenset({"question", "choices", "answer"}), frozenset(), _mmlu),
    Format("arc", frozenset({"question", "choices", "answerKey"}), frozenset(), _arc),
    Format("hellaswag", frozenset({"ctx", "endings", "label"}), frozenset({"activity_label"}), _hellaswag),
)
