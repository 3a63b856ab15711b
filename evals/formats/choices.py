"""Formats of a question with choices: MMLU, ARC, HellaSwag. The target is the right choice's letter."""

import re
from typing import Any

from evals.formats.content import Content, Fields, Format
from evals.formats.fields import kind_of, text, texts
from evals.sample import LETTERS, AnswerIs, BrokenLine

_MOST_CHOICES = len(LETTERS)
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]{0,30}")
_INDEX = re.compile(r"[0-9]{1,2}")
_BRACKETED = re.compile(r"\[.*?\]")
_SAY_WHICH = "answer_is (index, letter or text) in the request says which is meant"


def choice_content(
    question: str, choices: tuple[str, ...], right: Any, name: str, answer_is: AnswerIs | None = None
) -> Content:
    """`right` is an index from 0, a letter, or the text of a choice; `name` is its field. Raises BrokenLine.

    Without `answer_is` it has to be plain which of them it is: where the choices are letters or numbers themselves,
    every way to read it must give the same choice, and the right choice's text may not be there twice.
    """
    if not 2 <= len(choices) <= _MOST_CHOICES:
        raise BrokenLine(_too_few_or_many(choices))
    found = _by(answer_is, choices, right, name) if answer_is else _plain(choices, right, name)
    return _content(question, choices, found, answer_is)


def _content(question: str, choices: tuple[str, ...], found: int, answer_is: AnswerIs | None) -> Content:
    if answer_is in {None, "text"}:
        _refuse_twins(choices, found, answer_is)
    return Content(input=question, target=LETTERS[found], form="letter", choices=choices)


def _by(answer_is: AnswerIs, choices: tuple[str, ...], right: Any, name: str) -> int:
    found = _readings(choices, right)[answer_is]
    if found is None:
        wanted = {
            "index": f"no index from 0 to {len(choices) - 1}",
            "letter": f"none of the letters {LETTERS[: len(choices)]}",
            "text": "none of its choices",
        }
        raise BrokenLine(f"{name!r} is {_said(right)}: {wanted[answer_is]}, as answer_is says")
    return found


def _plain(choices: tuple[str, ...], right: Any, name: str) -> int:
    readings = {way: found for way, found in _readings(choices, right).items() if found is not None}
    if not isinstance(right, str):  # a JSON number among texts is an index, as in MMLU's own files
        readings.pop("text", None)
    if not readings:
        raise BrokenLine(
            f"{name!r} is {_said(right)}: neither an index from 0 to {len(choices) - 1}, nor one of the letters"
            f" {LETTERS[: len(choices)]}, nor a choice"
        )
    if len(set(readings.values())) > 1:
        ways = " and ".join(f"{way} of {choices[found][:40]!r}" for way, found in readings.items())
        raise BrokenLine(f"ambiguous: {name!r} is {_said(right)}, which is the {ways}; {_SAY_WHICH}")
    if "text" not in readings and isinstance(right, str) and _looks_like_a_choice(choices, right.strip()):
        (way,) = readings
        raise BrokenLine(
            f"ambiguous: {name!r} is {_said(right)}, which is not a choice's text, and may be its {way}; {_SAY_WHICH}"
        )
    return next(iter(readings.values()))


def _readings(choices: tuple[str, ...], right: Any) -> dict[AnswerIs, int | None]:
    """Which choice each way of reading names; None where it names none."""
    said = str(right).strip() if isinstance(right, str | int | float) and not isinstance(right, bool) else ""
    texts = [choice.strip() for choice in choices]
    index = int(said) if _INDEX.fullmatch(said) else -1
    letter = LETTERS.find(said.upper()) if len(said) == 1 else -1
    folded = [choice.casefold() for choice in texts]
    text = texts.index(said) if said in texts else None
    if text is None and folded.count(said.casefold()) == 1:
        text = folded.index(said.casefold())
    return {
        "index": index if 0 <= index < len(choices) else None,
        "letter": letter if 0 <= letter < len(choices) else None,
        "text": text,
    }


def _looks_like_a_choice(choices: tuple[str, ...], said: str) -> bool:
    """A number among choices that are numbers, a letter among choices that are labels of choices themselves."""
    texts = [choice.strip() for choice in choices]
    if said.isdigit():
        return any(_NUMBER.fullmatch(text) for text in texts)
    return any(len(text) == 1 and text.upper() in LETTERS[: len(choices)] for text in texts)


def _refuse_twins(choices: tuple[str, ...], found: int, answer_is: AnswerIs | None) -> None:
    texts = [choice.strip() for choice in choices]
    twins = [LETTERS[number] for number, text in enumerate(texts) if text == texts[found]]
    if len(twins) > 1:
        way_out = "" if answer_is == "text" else f"; {_SAY_WHICH.replace(', letter or text', ' or letter')}"
        raise BrokenLine(f"ambiguous: the choices {' and '.join(twins)} are both {texts[found][:40]!r}{way_out}")


def _too_few_or_many(choices: tuple[str, ...]) -> str:
    return f"it has {len(choices)} choices: 2 to {_MOST_CHOICES} can be told apart by letters"


def _said(right: Any) -> str:
    return repr(right)[:40] if isinstance(right, str | int | float) else kind_of(right)


def _mmlu(fields: Fields, answer_is: AnswerIs | None = None) -> Content:
    return chosen(fields, "question", "answer", answer_is)


def chosen(fields: Fields, question: str, right: str, answer_is: AnswerIs | None) -> Content:
    """Of the fields of these names, and `choices`. Raises BrokenLine."""
    choices, answer = texts(fields, "choices"), fields[right]
    if _is_number(answer) and any(map(_is_number, fields["choices"])):
        answer = str(answer)  # numbers on both sides: an index, or what a choice says
    return choice_content(text(fields, question), choices, answer, right, answer_is)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arc(fields: Fields, answer_is: AnswerIs | None = None) -> Content:
    """`answerKey` is one of the line's own labels, so no other reading is tried."""
    choices = fields["choices"]
    if not isinstance(choices, dict) or not {"text", "label"} <= choices.keys():
        raise BrokenLine("'choices' must be an object with 'text' and 'label'")
    labels, answers = texts(choices, "label"), texts(choices, "text")
    key = fields["answerKey"]
    if answer_is not in {None, "letter"}:
        raise BrokenLine(f"'answerKey' is a label, so answer_is cannot be {answer_is}")
    if len(labels) != len(answers):
        raise BrokenLine(f"'choices' has {len(answers)} texts and {len(labels)} labels")
    if key not in labels:
        raise BrokenLine(f"'answerKey' is {str(key)[:40]!r}, the labels are {', '.join(labels)}")
    if labels.count(key) > 1:
        raise BrokenLine(f"ambiguous: the label {str(key)[:40]!r} is there twice")
    if not 2 <= len(answers) <= _MOST_CHOICES:
        raise BrokenLine(_too_few_or_many(answers))
    return _content(text(fields, "question"), answers, labels.index(key), answer_is)


def _hellaswag(fields: Fields, answer_is: AnswerIs | None = None) -> Content:
    """Brackets of the source (`[header]`, `[title]`) are taken out as the benchmark's usual preparation does.

    A label of digits is an index, whatever the endings say.
    """
    label = fields["label"]
    if answer_is is None and isinstance(label, str) and _INDEX.fullmatch(label.strip()):
        label = int(label)
    begin = text(fields, "ctx")
    topic = fields.get("activity_label")
    context = f"{topic}: {begin}" if isinstance(topic, str) and topic.strip() else begin
    endings = tuple(_tidy(ending) or ending for ending in texts(fields, "endings"))
    return choice_content(_tidy(context) or context, endings, label, "label", answer_is)


def _tidy(passage: str) -> str:
    passage = passage.strip().replace(" [title]", ". ")
    return _BRACKETED.sub("", passage).replace("  ", " ").strip()


FORMATS = (
    Format("mmlu", frozenset({"question", "choices", "answer"}), frozenset(), _mmlu, read_as=_mmlu),
    Format("arc", frozenset({"question", "choices", "answerKey"}), frozenset(), _arc, read_as=_arc),
    Format(
        "hellaswag",
        frozenset({"ctx", "endings", "label"}),
        frozenset({"activity_label"}),
        _hellaswag,
        read_as=_hellaswag,
    ),
)
