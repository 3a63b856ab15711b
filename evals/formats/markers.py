"""Marks that worked solutions put around their final answer."""

_BOXES = ("\\boxed", "\\fbox")


def after_hashes(worked: str) -> str | None:
    """What follows the last `####` on its line (GSM8K); None without one, or with nothing behind it."""
    _, mark, rest = worked.rpartition("####")
    lines = rest.strip().splitlines()
    return lines[0].strip() if mark and lines else None


def last_boxed(worked: str) -> str | None:
    """The content of the last `\\boxed{…}` (braces balanced) or `\\boxed x`; None without one that is closed."""
    start = max(worked.rfind(box) for box in _BOXES)
    if start < 0:
        return None
    rest = worked[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):
        words = rest.split("$")[0].split()
        return words[0] if words else None
    depth = 0
    for position, character in enumerate(rest):
        escaped = position > 0 and rest[position - 1] == "\\"
        depth += (character == "{" and not escaped) - (character == "}" and not escaped)
        if depth == 0:
            return rest[1:position].strip() or None
    return None
