"""Answers of a canary in words, for its judge."""

from collections.abc import Iterable

from gateway.filtering.answers import SHAPES
from gateway.request.body import RequestBody
from gateway.serving.canary.judging import Taken
from gateway.traffic.said import NotText, NoWords, Prompt, answered, asked
from stepserve.canary import CanaryAnswer, CanaryAnswers


def in_words(taken: Iterable[Taken]) -> CanaryAnswers:
    """Without those that are not one text after texts. Blocks."""
    return CanaryAnswers(answers=[found for one in taken if (found := _in_words(one)) is not None])


def _in_words(taken: Taken) -> CanaryAnswer | None:
    shape = SHAPES.get(taken.path)
    if shape is None:
        return None
    try:
        question = asked(shape, RequestBody(taken.body))
        answer = answered(shape, taken.content, is_stream=taken.is_stream).text
    except NoWords:
        answer = ""
    except (NotText, TypeError, AttributeError, KeyError):  # a plugin of the engine may answer in any shape
        return None
    return CanaryAnswer(number=taken.number, question=_text_of(question), answer=answer)


def _text_of(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
