"""Formats of a question in words and its answer: plain ones, GSM8K, MATH, Alpaca and the input/… pairs."""

from typing import Any

from evals.formats.choices import chosen
from evals.formats.content import Content, Fields, Format
from evals.formats.conversations import turns_of
from evals.formats.fields import answer, kind_of, not_blank, text, texts
from evals.formats.markers import after_hashes, last_boxed
from evals.sample import AnswerIs, BrokenLine, Turn


def _question_answer(fields: Fields) -> Content:
    return Content(input=text(fields, "question"), target=answer(fields, "answer"))


def _prompt_answer(fields: Fields) -> Content:
    return Content(input=text(fields, "prompt"), target=answer(fields, "answer"), is_prompt=True)


def _gsm8k(fields: Fields) -> Content:
    worked = text(fields, "answer")
    final = after_hashes(worked)
    if final is None:
        raise BrokenLine("'answer' has nothing after its ####")
    return Content(input=text(fields, "question"), target=final, reference=worked, form="hashes")


def _math(fields: Fields) -> Content:
    solution = text(fields, "solution")
    final = answer(fields, "answer") if "answer" in fields else last_boxed(solution)
    if final is None:
        raise BrokenLine("'solution' has no \\boxed{} and there is no 'answer'")
    return Content(input=text(fields, "problem"), target=final, reference=solution, form="boxed")


def _alpaca(fields: Fields) -> Content:
    more = fields.get("input")
    if more is not None and not isinstance(more, str):
        raise BrokenLine(f"'input' must be text, not {kind_of(more)}")
    instruction = text(fields, "instruction")
    return Content(
        input=f"{instruction}\n\n{more}" if more and more.strip() else instruction, target=text(fields, "output")
    )


def _input_ideal(fields: Fields) -> Content:
    targets = texts(fields, "ideal") if isinstance(fields["ideal"], list) else (answer(fields, "ideal"),)
    return Content(input=_asked(fields), target=targets[0], targets=targets)


def _input_target(fields: Fields, answer_is: AnswerIs | None = None) -> Content:
    if "choices" in fields and fields["choices"] is not None:
        return chosen(fields, "input", "target", answer_is)
    targets = texts(fields, "target") if isinstance(fields["target"], list) else (answer(fields, "target"),)
    return Content(input=_asked(fields), target=targets[0], targets=targets)


def _asked(fields: Fields) -> str | list[Turn]:
    if isinstance(fields["input"], list):
        turns = turns_of(fields, "input")
        not_blank(turns[-1]["content"], "the last message of 'input'")
        return turns
    return text(fields, "input")


def _has_hashes(fields: Fields) -> bool:
    value: Any = fields["answer"]
    return isinstance(value, str) and "####" in value


FORMATS = (
    Format(
        "question_answer",
        frozenset({"question", "answer"}),
        frozenset(),
        _question_answer,
        fits=lambda fields: not _has_hashes(fields),
    ),
    Format("gsm8k", frozenset({"question", "answer"}), frozenset(), _gsm8k, fits=_has_hashes),
    Format("prompt_answer", frozenset({"prompt", "answer"}), frozenset(), _prompt_answer),
    Format("math", frozenset({"problem", "solution"}), frozenset({"answer"}), _math, ids=("id", "unique_id")),
    Format("alpaca", frozenset({"instruction", "output"}), frozenset({"input"}), _alpaca),
    Format("input_ideal", frozenset({"input", "ideal"}), frozenset(), _input_ideal),
    Format(
        "input_target", frozenset({"input", "target"}), frozenset({"choices"}), _input_target, read_as=_input_target
    ),
)
