"""Other questions of the same kind: with other numbers, or written by the model."""

import random
import re

from datagen.tokens import words

PROMPT = (
    "Here is a problem:\n\n{question}\n\nWrite one new problem of the same kind and difficulty, with other names,"
    " things and numbers, in the same language. It must have one definite answer. Write the problem"
    " alone, without an answer."
)
_NUMBER = re.compile(r"(?<![\w.])[0-9]+(?:\.[0-9]+)?(?![\w]|\.[0-9])")
_LONGEST_DIGITS = 15


def with_other_numbers(question: str, chance: random.Random) -> str | None:
    """Every number replaced by one of as many digits; equal ones stay equal. None when there is no number to change."""
    replaced: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        number = match.group()
        return replaced.setdefault(number, _like(number, chance))

    found = [match.group() for match in _NUMBER.finditer(question)]
    if not found or any(len(number) > _LONGEST_DIGITS for number in found):
        return None
    return _NUMBER.sub(other, question)


def written_variant(text: str, question: str) -> str | None:
    """The problem in a model's reply; None when there is none, or it is the one it was shown."""
    lines = [line.strip() for line in text.strip().splitlines()]
    variant = re.sub(r"^(?:(?:new )?problem|question)\s*:\s*", "", " ".join(filter(None, lines)), flags=re.IGNORECASE)
    if len(words(variant)) < 3 or words(variant) == words(question):
        return None
    return variant


def _like(number: str, chance: random.Random) -> str:
    """As many digits before and after the point; a number of one digit is not made 0 unless it was."""
    whole, _, places = number.partition(".")
    lowest = 0 if whole == "0" else 10 ** (len(whole) - 1)
    drawn = str(chance.randint(lowest, 10 ** len(whole) - 1))
    return f"{drawn}.{''.join(chance.choice('0123456789') for _ in places)}" if places else drawn
