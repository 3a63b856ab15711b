"""The letter of a multiple-choice answer, found in what a model wrote.

In this order: the text is one letter (`B`, `(B)`, `B.`); it begins with one set apart (`B. Paris`, `B) …`, `**B**`);
the last `answer is B`, `answer: B`, `\\boxed{B}`; the text is that of exactly one choice; the one capital letter that
stands alone. `A` before a word in lower case is an article.
"""

import re
from collections.abc import Sequence

from evals.sample import LETTERS
from evals.scorers.exact_match import normalise

_MARKS = r"[*_`\"'\s]{0,8}"  # bounded, or long runs of them would take quadratic time


def choice_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """One of the first `len(choices)` letters, or None where the text names none of them, or several alike."""
    letters = LETTERS[: len(choices)]
    text = prediction.strip()
    return _leading(text, letters) or _stated(text, letters) or _quoted(text, choices) or _only(text, letters)


def _leading(text: str, letters: str) -> str | None:
    match = re.match(rf"{_MARKS}[(\[]?([{letters}{letters.lower()}])[)\]]?{_MARKS}(?:$|[.:),\]])", text)
    if match is None:
        match = re.match(rf"{_MARKS}[(\[*]+([{letters}])[)\]*]+", text) or re.match(rf"([{letters}])\s*\n", text)
    return match[1].upper() if match else None


def _stated(text: str, letters: str) -> str | None:
    said = re.findall(
        rf"(?i:answer|choice|option)(?i:\s+is|\s*:|\s+would be|\s+should be)?{_MARKS}:?{_MARKS}[(\[]?([{letters}])\b"
        rf"|\\boxed\s*\{{\s*(?:\\text\s*\{{)?\s*\(?([{letters}])\b",
        text,
    )
    return (said[-1][0] or said[-1][1]) if said else None


def _quoted(text: str, choices: Sequence[str]) -> str | None:
    said = normalise(text)
    equal = [letter for letter, choice in zip(LETTERS, choices, strict=False) if normalise(choice) == said]
    return equal[0] if len(equal) == 1 else None


def _only(text: str, letters: str) -> str | None:
    alone = set(re.findall(rf"(?<![\w'])([{letters}])(?![\w'])", text))
    alone -= {"A"} if re.search(r"\bA (?!or\b|and\b)[a-z]", text) else set()
    return alone.pop() if len(alone) == 1 else None
