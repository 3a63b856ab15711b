"""Formats of programming tasks with tests: HumanEval (and HumanEval+), MBPP (and its sanitized half)."""

import re

from evals.formats.content import Content, Fields, Format
from evals.formats.fields import text, texts
from evals.sample import BrokenLine, CodeTask

_DEFINED = re.compile(r"^(?:async def|def|class) +(\w+)|^(\w+) *=(?!=)", re.MULTILINE)


def _humaneval(fields: Fields) -> Content:
    prompt, entry_point = text(fields, "prompt"), text(fields, "entry_point")
    if not entry_point.isidentifier():
        raise BrokenLine(f"'entry_point' is {entry_point[:40]!r}, which is not the name of a function")
    solution = text(fields, "canonical_solution") if fields.get("canonical_solution") else ""
    return Content(
        input=prompt,
        target=solution,
        form="code",
        is_prompt=True,
        code=CodeTask(
            before="",
            after=f"{text(fields, 'test')}\n\ncheck({entry_point})\n",
            stub=prompt,
            entry_point=entry_point,
        ),
    )


def _mbpp(fields: Fields) -> Content:
    name = "prompt" if "prompt" in fields else "text"
    if name not in fields:
        raise BrokenLine("neither 'text' nor 'prompt' is there")
    tests = texts(fields, "test_list")
    imports = texts(fields, "test_imports") if fields.get("test_imports") else ()
    setup = text(fields, "test_setup_code") if fields.get("test_setup_code") else ""
    question = f"{text(fields, name)}\nThe code must pass these tests:\n" + "\n".join(tests)
    return Content(
        input=question,
        target=text(fields, "code"),
        form="code",
        code=CodeTask(
            before="\n".join((*imports, setup)), after="\n".join(tests) + "\n", names=_defined(text(fields, "code"))
        ),
    )


def _defined(code: str) -> tuple[str, ...]:
    """The names at a program's top level."""
    return tuple(dict.fromkeys(first or second for first, second in _DEFINED.findall(code)))


FORMATS = (
    Format(
        "humaneval",
        frozenset({"prompt", "test", "entry_point"}),
        frozenset({"canonical_solution"}),
        _humaneval,
        ids=("id", "task_id"),
    ),
    Format(
        "mbpp",
        frozenset({"code", "test_list"}),
        frozenset({"text", "prompt", "test_imports", "test_setup_code"}),
        _mbpp,
        ids=("id", "task_id"),
    ),
)
