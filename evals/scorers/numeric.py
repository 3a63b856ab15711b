"""The last number of an answer, compared as an exact decimal.

A number is digits with an optional sign, decimal places, exponent, thousands separators (commas every three digits) and
a fraction (`3/4`); currency signs and units beside it do not matter, a percent sign does not scale it. What follows
the last `####` or stands in the last `\\boxed{}` goes before the rest of the text. Equal means equal as rational
numbers: `0.50` is `1/2`, and `0.333` is not `1/3`.
"""

import re
import unicodedata
from fractions import Fraction

from evals.formats.markers import after_hashes, last_boxed
from evals.scorers.score import Score

_LONGEST_NUMBER = 400  # characters: more would make a rational of no use and of great cost
_LARGEST_EXPONENT = 400
_MINUS_SIGN = "\u2212"
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.])(?P<sign>[+-]?)\$?\s?"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))"
    r"(?:\.(?P<places>[0-9]+))?(?:[eE](?P<exponent>[+-]?[0-9]+))?"
    r"(?:\s?/\s?(?P<below>[0-9]+)(?![0-9.]))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s{0,4}\{([^{}]{1,100})\}\s{0,4}\{([^{}]{1,100})\}")


def numeric(prediction: str, target: str) -> Score:
    """`extracted` is the number as it stands in the prediction; without one the score is 0 and not parsed."""
    wanted = last_number(target)
    found = _final(prediction)
    if found is None:
        return Score(value=0.0, correct=False, parsed=False)
    said, value = found
    correct = wanted is not None and value == wanted[1]
    return Score(value=float(correct), correct=correct, extracted=said)


def is_number(target: str) -> bool:
    """Whether a target has a number to compare with."""
    return last_number(target) is not None


def last_number(text: str) -> tuple[str, Fraction] | None:
    """The last number as written, and its value."""
    text = unicodedata.normalize("NFKC", text).replace(_MINUS_SIGN, "-")
    text = _FRACTION.sub(lambda match: f" {match[1].strip()}/{match[2].strip()} ", text)
    for match in reversed(list(_NUMBER.finditer(text))):
        value = _value(match)
        if value is not None:
            return match.group().strip().removeprefix("$ "), value
    return None


def _final(prediction: str) -> tuple[str, Fraction] | None:
    for marked in (after_hashes(prediction), last_boxed(prediction)):
        if marked is not None and (found := last_number(marked)) is not None:
            return found
    return last_number(prediction)


def _value(match: re.Match[str]) -> Fraction | None:
    exponent = int(match["exponent"] or 0) if len(match["exponent"] or "") <= 5 else _LARGEST_EXPONENT + 1
    if len(match.group()) > _LONGEST_NUMBER or abs(exponent) > _LARGEST_EXPONENT:
        return None
    digits = f"{match['whole'].replace(',', '') or '0'}.{match['places'] or '0'}"
    value = Fraction(f"{match['sign']}{digits}") * Fraction(10) ** exponent
    if match["below"] is None:
        return value
    below = int(match["below"])
    return value / below if below else None
