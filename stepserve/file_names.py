"""Names of a checkpoint's files that go over the wire: one rule for who sends them and who takes them."""

import re
from typing import Final

RULE: Final = "letters, digits, '.', '_', '-', '+', '@' and '=', folders by '/', none of which begins with '.'"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,199}")
_DEEPEST: Final = 4


def can_be_sent(name: str) -> bool:
    """Whether the path, inside the checkpoint's folder, is one that a server takes."""
    segments = name.split("/")
    return len(segments) <= _DEEPEST and all(_SEGMENT.fullmatch(part) and ".." not in part for part in segments)
