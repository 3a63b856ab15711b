"""Rows to train and evaluate on, of what people said of answers. Pure.

A correction is a better answer than the one that it corrects, and a good answer a better one than a bad one to the same
prompt. Nothing else is made of it: a good answer is no reference for an eval, since nobody said what else is right.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from datagen.records import formatted, sha_of
from stepserve.jobs.datagen_ports import FeedbackKind, RatedAnswer

Row = dict[str, Any]


class FeedbackRows:
    """Implements stepserve.jobs.datagen_ports.FeedbackRows. Turns make TRL's conversational rows, texts plain ones."""

    def rows(self, kind: FeedbackKind, answers: Sequence[RatedAnswer]) -> list[Row]:
        match kind:
            case "eval":
                return _references(answers)
            case "dpo":
                return [_plain(answers[0], row) for pair in _pairs(answers) for row in formatted(pair, "dpo")]
            case "kto":
                return [_plain(answers[0], row) for each in answers for row in formatted(_judged(each), "kto")]


def _references(answers: Sequence[RatedAnswer]) -> list[Row]:
    """One question: its newest correction is what is expected."""
    for each in answers:
        if each.correction is None:
            continue
        about = {"id": _id(each, each.correction), "answer": each.correction, **_source(each)}
        if isinstance(each.prompt, str):
            return [{"prompt": each.prompt, **about}] if each.prompt.strip() else []
        is_asked = each.prompt[-1]["role"] != "assistant"
        return [{"messages": each.prompt, **about}] if is_asked else []
    return []


def _pairs(answers: Sequence[RatedAnswer]) -> Iterator[Row]:
    """Each answer is rejected once at most, for its own correction where it has one."""
    for each in answers:
        if each.correction is not None and each.correction != each.answer:
            yield _pair(each, each.correction, each.answer)
    good = [each for each in answers if each.rating > 0]
    bad = [each for each in answers if each.rating < 0 and each.correction is None]
    said = {each.answer for each in good}
    for better, worse in zip(good, [each for each in bad if each.answer not in said], strict=False):
        yield _pair(better, better.answer, worse.answer)


def _pair(each: RatedAnswer, chosen: str, rejected: str) -> Row:
    return _record(each, chosen, passed=True) | {
        "id": _id(each, chosen, rejected),
        "alternatives": [{"content": rejected, "score": 0.0, "passed": False}],
    }


def _judged(each: RatedAnswer) -> Row:
    """An answer and what was said of it; with a correction both are rows."""
    if each.correction is None or each.correction == each.answer:
        return _record(each, each.answer, passed=each.rating > 0)
    other = {"content": each.answer, "score": float(each.rating > 0), "passed": each.rating > 0}
    return _record(each, each.correction, passed=True) | {"alternatives": [other]}


def _record(each: RatedAnswer, reply: str, *, passed: bool) -> Row:
    """As datagen.records.formatted takes it. A text is one turn until `_plain`."""
    asked = [{"role": "user", "content": each.prompt}] if isinstance(each.prompt, str) else each.prompt
    return {
        "id": _id(each, reply),
        "messages": [*asked, {"role": "assistant", "content": reply}],
        "score": float(passed),
        "passed": passed,
        "alternatives": [],
        "metadata": {**_source(each), "verify_method": "feedback"},
    }


def _plain(each: RatedAnswer, row: Row) -> Row:
    """Of a prompt that is text: texts in the place of the turns."""
    if not isinstance(each.prompt, str):
        return row
    return {name: value[0]["content"] if _is_turns(value) else value for name, value in row.items()}


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


def _source(each: RatedAnswer) -> dict[str, str]:
    return {
        "source": "traffic",
        "source_id": each.request_id,
        "generator_model": each.model,
        "model_digest": each.digest,
        "created_at": each.answered_at.isoformat(),
    }


def _id(each: RatedAnswer, *replies: str) -> str:
    return sha_of([each.request_id, each.prompt, *replies])[:24]
