"""From an answer to a program with its tests."""

import re
from dataclasses import dataclass

from evals.sample import CodeTask

_FENCE = re.compile(r"```(?:[A-Za-z0-9_+-]*)[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def code_of(answer: str, entry_point: str | None = None) -> str:
    """The code block that defines `entry_point`, else the longest block, else the whole answer."""
    blocks: list[str] = _FENCE.findall(answer)
    if not blocks:
        return answer
    defining = [block for block in blocks if entry_point and _defines(block, entry_point)]
    return max(defining or blocks, key=len)


@dataclass(frozen=True, slots=True)
class Program:
    """`prelude` is the task's own part of what stands ahead of the tests, `code` the model's; `whole` is both in one,
    for a prelude that is no program by itself. `names`: what of it the tests are about.
    """

    code: str
    tests: str = ""
    prelude: str = ""
    whole: str = ""
    names: tuple[str, ...] = ()


def program_of(answer: str, task: CodeTask) -> Program:
    """An answer that does not define the entry point is taken as the rest of the task's stub; one that does stands
    behind what the stub imports and defines ahead of it.
    """
    code = code_of(answer, task.entry_point)
    ahead, stub = task.before, task.stub
    if task.entry_point:
        start = re.search(rf"^(?:async )?def {re.escape(task.entry_point)}\b", task.stub, re.MULTILINE)
        if start is not None:
            ahead, stub = f"{task.before}\n{task.stub[: start.start()]}", task.stub[start.start() :]
        if _defines(code, task.entry_point):
            stub = "" if start is not None else f"{task.stub}\n"
    names = dict.fromkeys((*([task.entry_point] if task.entry_point else []), *task.names))
    return Program(
        code=f"{stub}{code}", tests=task.after, prelude=ahead, whole=f"{ahead}\n{stub}{code}", names=tuple(names)
    )


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE) is not None
