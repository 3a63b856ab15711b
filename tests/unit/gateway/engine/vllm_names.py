"""Every name that the gateway uses of vLLM, read from the gateway's sources, and looked up in vLLM's: nothing is run.

`python -m tests.unit.gateway.engine.vllm_names FOLDER` prints those that the vLLM unpacked in FOLDER does not have.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gateway.engine.patches.registry import PATCHES

REPOSITORY = Path(__file__).resolve().parents[4]
ADAPTER = REPOSITORY / "gateway" / "engine" / "versions.py"  # has what a version has elsewhere, and is run instead

Name = tuple[str, str]


def names_used() -> set[Name]:
    """Module and name; the name is empty where the module itself is imported."""
    found = {(module, path) for module, _, path in _targets() if module.partition(".")[0] == "vllm"}
    for file in [*(REPOSITORY / "gateway").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]:
        if file != ADAPTER:
            found |= set(_imports(ast.parse(file.read_text())))
    return found


def missing(sources: Path) -> list[str]:
    """What the vLLM whose package lies in `sources` lacks, as `module:name`, sorted."""
    return sorted(f"{module}:{name}" for module, name in names_used() if not _has(sources, module, name))


def _targets() -> Iterator[tuple[str, str, str]]:
    for patch in PATCHES:
        for target in patch.targets:
            yield target.partition(":")


def _imports(tree: ast.Module) -> Iterator[Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names if each.name.partition(".")[0] == "vllm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
            yield from ((node.module or "", each.name) for each in node.names)


def _has(sources: Path, module: str, name: str) -> bool:
    file = _file(sources, module)
    if file is None:
        return False
    if not name or _file(sources, f"{module}.{name}") is not None:
        return True
    first, _, member = name.partition(".")
    return first in _defined(file) and (not member or member in _members(file, first))


def _file(sources: Path, module: str) -> Path | None:
    place = sources.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@cache
def _defined(file: Path) -> frozenset[str]:
    """At the top of a module, also in its branches; of lazily imported names, the keys of its table of them."""
    found: set[str] = set()
    for node in _top(ast.parse(file.read_text()).body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {(each.asname or each.name).partition(".")[0] for each in node.names}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
                if isinstance(node.value, ast.Dict):
                    keys = (key.value for key in node.value.keys if isinstance(key, ast.Constant))
                    found |= {key for key in keys if isinstance(key, str)}
    return frozenset(found)


def _members(file: Path, name: str) -> set[str]:
    """What the class defines itself."""
    body = ast.parse(file.read_text()).body
    found = next((node for node in _top(body) if isinstance(node, ast.ClassDef) and node.name == name), None)
    members = found.body if found is not None else []
    return {node.name for node in members if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _top(getattr(node, part, []))
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _top(handler.body)


if __name__ == "__main__":
    print("\n".join(missing(Path(sys.argv[1]))))
