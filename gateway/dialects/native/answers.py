"""Finds the answer in a solution: the last box, what is said to be the answer, or the last number."""

import re

_BOX = "\\boxed{"
_SAID = re.compile(r"(?:####|\banswer\b(?:\s+is)?\s*[:=]?|\btherefore\b[,:]?)[ \t*$]*(?P<answer>[^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_FENCE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\n`]*)\n", re.MULTILINE)


def math_answer(solution: str) -> str | None:
    r"""The content of the last `\boxed{}` (braces may nest), else what follows "answer is", "answer:" or "####".

    Else the last number, else the text itself where it is one line; None for an empty solution.
    """
    boxed = _last_box(solution)
    if boxed is not None:
        return boxed
    said = list(_SAID.finditer(solution))
    if said:
        text = _plain(said[-1]["answer"])
        if text:
            return text
    numbers = _NUMBER.findall(solution)
    if numbers:
        return str(numbers[-1]).replace(",", "")
    text = solution.strip()
    return text if text and "\n" not in text else None


def code_block(solution: str) -> str | None:
    """The longest fenced block without its fence, one that is never closed to the end; None: there is none."""
    blocks: list[str] = []
    position = 0
    while opening := _FENCE.search(solution, position):
        closing = re.compile(rf"^[ \t]*{re.escape(opening['fence'])}[ \t]*$", re.MULTILINE).search(
            solution, opening.end()
        )
        end = closing.start() if closing else len(solution)
        blocks.append(solution[opening.end() : end].rstrip("\n"))
        position = closing.end() if closing else len(solution)
    return max(blocks, key=len) if blocks else None


def _last_box(text: str) -> str | None:
    """An unclosed box is none."""
    start = text.rfind(_BOX)
    while start >= 0:
        depth = 1
        for position in range(start + len(_BOX), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(_BOX) : position].strip()
        start = text.rfind(_BOX, 0, start)
    return None


def _plain(text: str) -> str:
    """Without the marks around it: `**42**.` and `$42$` are 42."""
    return text.strip().strip("*$ ").rstrip(".").strip("*$ ")
