"""Exact match after a normalisation that forgives spelling and keeps meaning.

Both sides go through the same steps, in this order:
1. Unicode NFKC and case folding (full-width letters, `abc` and `ABC` are one); the minus sign U+2212 becomes `-`.
2. White space at the ends goes; inside, any run of it becomes one space.
3. One period at the end goes (`42.` is `42`), unless nothing would be left.
4. A plain decimal number becomes its shortest form: `1,234`, `+1234` and `01234.0` are all `1234`, `-0` is `0`. Digits
   are compared as they are, never as floats, so long numbers keep every place. Separators must stand every three
   digits; units, exponents and fractions (`$5`, `1e3`, `1/2`) are text.
"""

import re
import unicodedata

from evals.scorers.score import Score

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+|(?=\.[0-9]))(?:\.(?P<fraction>[0-9]*))?"
)
_MINUS_SIGN = "\u2212"


def exact_match(prediction: str, target: str) -> Score:
    said = normalise(prediction)
    correct = said == normalise(target)
    return Score(value=float(correct), correct=correct, extracted=said, parsed=bool(said))


def normalise(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = " ".join(text.replace(_MINUS_SIGN, "-").split())
    text = text.removesuffix(".").rstrip() or text
    number = _NUMBER.fullmatch(text)
    return _shortest(number) if number else text


def _shortest(number: re.Match[str]) -> str:
    whole = number["whole"].replace(",", "").lstrip("0") or "0"
    fraction = (number["fraction"] or "").rstrip("0")
    size = f"{whole}.{fraction}" if fraction else whole
    return f"-{size}" if number["sign"] == "-" and size != "0" else size
