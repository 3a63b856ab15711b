"""From an answer to a program with its tests."""

import re

from evals.sample import CodeTask

_FENCE = re.compile(r"```(?:[A-Za-z0-9_+-]*)[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def code_of(answer: str, entry_point: str | None = None) -> str:
    """The code block that defines `entry_point`, else the longest block, else the whole answer."""
    blocks: list[str] = _FENCE.findall(answer)
    if not blocks:
        return answer
    defining = [block for block in blocks if entry_point and _defines(block, entry_point)]
    return max(defining or blocks, key=len)


def program_of(answer: str, task: CodeTask) -> str:
    """An answer that does not define the entry point is taken as the rest of the task's stub; one that does stands
    behind what the stub imports and defines ahead of it.
    """
    code = code_of(answer, task.entry_point)
    if task.entry_point and _defines(code, task.entry_point):
        ahead = re.split(rf"^def {re.escape(task.entry_point)}\b", task.stub, maxsplit=1, flags=re.MULTILINE)[0]
        code = f"{ahead}\n{code}"
    elif task.stub:
        code = task.stub + code
    return f"{task.before}\n{code}\n{task.after}"


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE) is not None
