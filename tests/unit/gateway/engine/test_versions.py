"""The versions of vLLM that the gateway runs with, and whether they have the names that it uses."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.engine.installed import SUPPORTED, VllmRefused, check_version
from gateway.engine.patches.grammar_compiling import forget_back_end
from stepserve.installed_vllm import installed_vllm
from tests.unit.gateway.engine.vllm_names import missing, names_used

# Of further versions: folders with the unpacked package `vllm`, as a wheel has it.
FURTHER = [Path(folder) for folder in os.environ.get("STEPSERVE_VLLM_SOURCES", "").split(os.pathsep) if folder]


def installed_sources() -> Path:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


@pytest.mark.parametrize("sources", [None, *FURTHER], ids=str)
def test_vllm_has_every_name_that_is_used(sources: Path | None) -> None:
    assert missing(sources or installed_sources()) == []


def test_a_name_that_is_gone_would_be_found(tmp_path: Path) -> None:
    package = tmp_path / "vllm" / "v1" / "engine"
    package.mkdir(parents=True)
    (package / "exceptions.py").write_text("class EngineDeadError(Exception): ...\n")
    gone = missing(tmp_path)
    assert "vllm.v1.engine.exceptions:EngineGenerateError" in gone
    assert "vllm.v1.engine.exceptions:EngineDeadError" not in gone
    assert ("vllm.v1.engine.exceptions", "EngineDeadError") in names_used()


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.33.0+cu130", *(f"{series}.0" for series in SUPPORTED)])
def test_versions_that_the_gateway_runs_with(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.0", "0.34.0", "0.3.2", "1.32.0", None])
def test_others_are_refused_in_a_sentence(version: str | None) -> None:
    with pytest.raises(VllmRefused, match=r"0\.32 and 0\.33: install|not installed: install"):
        check_version(version)


def test_the_installed_one_is_known() -> None:
    check_version(installed_vllm())


def test_a_manager_that_knows_one_back_end_alone_is_told_to_forget_it() -> None:
    """vLLM 0.33 refuses a request that was checked for another back end than the first one's."""

    class Manager:
        backend_name: str | None = "xgrammar"

    manager = Manager()
    forget_back_end(manager)
    assert manager.backend_name is None
    forget_back_end(object())  # 0.32 has no such name
