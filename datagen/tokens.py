"""Words of any script, and texts as strings of one letter a word, which string algorithms take at full speed.

A word is a run of letters, a number, a symbol of arithmetic, or one character of a script without spaces (Chinese,
Japanese, Thai, Lao, Burmese, Khmer). Other punctuation, case and width do not count.
"""

import re
import unicodedata
import zlib
from functools import lru_cache

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
    r"|[0-9]+(?:\.[0-9]+)?"
    r"|[^\W0-9_]+"
    r"|[-+*/=<>^%×÷√∑∫−]"
)
_LETTERS = 1_100_000
_FIRST_LETTER = 0x20
_SURROGATES, _SURROGATES_END = 0xD800, 0xE000


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def numbers(tokens: list[str]) -> list[str]:
    """In ascending order of their spelling."""
    return sorted(token for token in tokens if token[0].isdigit())


def as_letters(tokens: list[str]) -> str:
    """One character a word: [n_words]. Two words have the same with a chance of one in a million."""
    return "".join(map(_letter, tokens))


@lru_cache(1 << 15)  # a few MB; most words of any text are among the commonest
def _letter(token: str) -> str:
    code = _FIRST_LETTER + zlib.crc32(token.encode()) % _LETTERS
    return chr(code if code < _SURROGATES else code + _SURROGATES_END - _SURROGATES)
