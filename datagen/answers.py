"""The final answer inside a solution, and whether two of them are the same."""

import re

from datagen.arithmetic import value_of
from evals.scorers import SCORERS

_BOXED = "\\boxed{"
_HASHES = re.compile(r"####\s*(.+)")
_SAID = re.compile(r"(?:answer|result|solution)\s*(?:is|=|:)+\s*([^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?")
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"[0-9]")
_LONGEST_WHOLE = 64
_LETTER = re.compile(r"[^\W\d_]")
_ZERO_FIRST = re.compile(r"(?<![0-9.,])0[0-9]")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_AROUND_SUM = " \t*#$.,;"  # what marks an answer or ends a sentence


def final_answer(solution: str) -> str | None:
    """What stands in the last `\\boxed{}`, after the last `####` or after "the answer is"; else the last number; else
    the whole of a short text. None when there is no such thing."""
    boxed = _last_boxed(solution)
    if boxed is not None:
        return boxed
    for pattern in (_HASHES, _SAID):
        found = pattern.findall(solution)
        if found:
            said = str(found[-1]).strip().rstrip(".")
            numbers = _NUMBER.findall(said)
            return numbers[0].replace("$", "") if numbers and pattern is _SAID else said
    whole = solution.strip()
    numbers = _NUMBER.findall(whole)
    if numbers:
        return str(numbers[-1]).replace("$", "").rstrip(",")
    return whole if 0 < len(whole) <= _LONGEST_WHOLE and "\n" not in whole else None


def same_answer(left: str, right: str) -> bool:
    """By the scorer that evals use for accuracy."""
    return bool(SCORERS["accuracy"](left, right).correct)


def is_right(solution: str, gold: str) -> bool:
    """As a whole, or by its final answer."""
    answer = final_answer(solution)
    return same_answer(solution, gold) or (answer is not None and same_answer(answer, gold))


def is_right_sum(solution: str, gold: str) -> bool:
    """For plain arithmetic, which has no units: letters that are glued to the last number spoil it (`80t`, `94t6`), and
    so do zeros before it (`080`).

    An answer without words is arithmetic too, and has to hold (`11+69=80`): `(80` and `6?80` do not.
    """
    if _ZERO_FIRST.search(solution):
        return False
    if not _LETTER.search(solution):
        return all(_holds(line) for line in solution.split("\n")) and is_right(solution, gold)
    numbers = [word for word in _WORD.findall(solution) if _DIGIT.search(word)]
    return is_right(solution, gold) and bool(numbers) and numbers[-1].isdecimal()


def _holds(line: str) -> bool:
    """Whether all sides of an equation are worth the same; a number alone and an empty line do hold."""
    sides = (side.strip(_AROUND_SUM) for side in _THOUSANDS.sub("", line).split("="))
    values = [value_of(side) for side in sides if side]
    return None not in values and len(set(values)) <= 1


def _last_boxed(text: str) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth = 1
    for at in range(start + len(_BOXED), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + len(_BOXED) : at].strip()
    return None
