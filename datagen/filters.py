"""What makes a draft unfit whatever it says: pure checks by name, in any language.

More can be installed: an entry point in the group `stepserve.datagen_filters` whose object is called with a draft and
answers why it is unfit, or None.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from datagen.errors import Refused
from datagen.records import Draft, Rejection
from datagen.tokens import as_letters, words

GROUP = "stepserve.datagen_filters"

_LONGEST_RUN = re.compile(r"(\S)\1{29,}")
_REPEATED_WORDS = 4
_MOST_REPEATED_SHARE = 0.3
_FEWEST_WORDS_TO_REPEAT = 40
_FEWEST_LETTERS_SHARE = 0.25
_FEWEST_CHARACTERS_TO_COUNT = 24


@dataclass(frozen=True, slots=True)
class Lengths:
    """In characters."""

    min_question: int = 3
    max_question: int = 32_000
    min_answer: int = 1
    max_answer: int = 32_000


Filter = Callable[[Draft], str | None]
"""Answers why the draft is unfit, for a person; None: it is fit."""


def complete(draft: Draft) -> str | None:
    """The answer came to its end by itself."""
    return "cut off at max_tokens" if draft.finish_reason == "length" else None


def clean(draft: Draft) -> str | None:
    """No control characters, half characters, or text without letters."""
    for turn in draft.turns:
        for character in turn.content:
            if character == "\ufffd" or (unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t\r"):
                return f"holds the character U+{ord(character):04X}"
        solid = [character for character in turn.content if not character.isspace()]
        if len(solid) >= _FEWEST_CHARACTERS_TO_COUNT:
            telling = sum(unicodedata.category(character)[0] in "LNM" for character in solid)
            if telling < _FEWEST_LETTERS_SHARE * len(solid):
                return f"{telling} of {len(solid)} characters are letters or digits"
    return None


def repetition(draft: Draft) -> str | None:
    """No character 30 times in a row, no four words that make up 30 % of the answer."""
    for turn in draft.turns:
        if run := _LONGEST_RUN.search(turn.content):
            return f"{run[1]!r} {len(run[0])} times in a row"
    letters = as_letters(words(draft.reply))
    if len(letters) >= _FEWEST_WORDS_TO_REPEAT:
        runs = Counter(letters[at : at + _REPEATED_WORDS] for at in range(len(letters) - _REPEATED_WORDS + 1))
        most = runs.most_common(1)[0][1]
        if most * _REPEATED_WORDS > _MOST_REPEATED_SHARE * len(letters):
            return f"four words stand {most} times in {len(letters)}"
    return None


def echo(draft: Draft) -> str | None:
    """The answer is not the question."""
    return "repeats the question" if words(draft.reply) == words(draft.question) else None


BUILT_IN: dict[str, Filter] = {"complete": complete, "clean": clean, "repetition": repetition, "echo": echo}
LENGTH = "length"


def length(limits: Lengths) -> Filter:
    """Question and answer within the limits, white space at their ends not counted."""

    def check(draft: Draft) -> str | None:
        asked, replied = len(draft.question.strip()), len(draft.reply.strip())
        if not limits.min_question <= asked <= limits.max_question:
            return f"the question has {asked} characters"
        if not limits.min_answer <= replied <= limits.max_answer:
            return f"the answer has {replied} characters"
        return None

    return check


class Filters:
    """Those of a run, in order. Raises Refused for a name that nobody knows."""

    def __init__(self, names: Sequence[str] | None, limits: Lengths) -> None:
        known = {LENGTH: length(limits), **BUILT_IN}
        installed = {point.name: point for point in entry_points(group=GROUP)}
        self._filters: list[tuple[str, Filter]] = []
        for name in names if names is not None else known:
            if name in known:
                self._filters.append((name, known[name]))
            elif name in installed:
                self._filters.append((name, installed[name].load()))
            else:
                choices = ", ".join(sorted({*known, *installed}))
                raise Refused("filters", f"there is no filter {name!r}; known are {choices}")

    def check(self, draft: Draft) -> Rejection | None:
        """The first objection."""
        for name, is_unfit in self._filters:
            if (why := is_unfit(draft)) is not None:
                return Rejection(name, {"why": why, "question": draft.question[:200]})
        return None
