"""The files that a stranger's pull request meets: valid, and speaking of commands that exist."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
GITHUB = REPOSITORY / ".github"


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
    ],
)
def test_what_github_reads_follows_its_schema(schema: str, file: str) -> None:
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file]
    checked = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_workflow_runs_what_everybody_runs() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    assert (REPOSITORY / ".ci" / "run").is_file()
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12"]  # `requires-python` of both distributions


def test_dependabot_looks_where_there_is_something() -> None:
    for update in yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]:
        assert (REPOSITORY / update["directory"].lstrip("/")).is_dir(), update


def test_hooks_call_programs_that_install_dev_installs() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {Path(hook["entry"].split()[0]).name for hook in hooks} == {"ruff", "mypy", "lint-imports"}
    for hook in hooks:
        assert Path(sys.executable).with_name(Path(hook["entry"].split()[0]).name).is_file(), hook


def test_both_distributions_name_the_licence() -> None:
    licence = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in licence
    for folder in (REPOSITORY, REPOSITORY / "server"):
        assert (folder / "LICENSE").read_text() == licence
        assert 'license = "Apache-2.0"' in (folder / "pyproject.toml").read_text()
