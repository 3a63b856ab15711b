"""A strategy, a filter and a verifier of somebody else's, in a package that pip installs."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.datagen.run_setup import RunSetup, SayingEngine

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "echo-strategy"
version = "1.0"

[project.entry-points."stepserve.datagen_strategies"]
echo = "echo_strategy:Echo"

[project.entry-points."stepserve.datagen_filters"]
polite = "echo_strategy:polite"

[project.entry-points."stepserve.verifiers"]
short = "echo_strategy:Short"

[tool.setuptools]
py-modules = ["echo_strategy"]
"""
MODULE = """
from datagen.config import GenerationConfig
from datagen.records import Draft, Outcome, Turn, prompt_sha
from datagen.solving import chat
from datagen.verifier import Verdict, VerifierConfig
from stepserve.contract import BatchSampling


class EchoConfig(GenerationConfig):
    words: list[str]


class Echo:
    config_model = EchoConfig
    similarity_limit = 1.1
    same_numbers = True
    digest = "constant"

    def __init__(self, config):
        self._words = config.words

    @classmethod
    def open(cls, config, sources):
        return cls(config)

    @property
    def attempts(self):
        return len(self._words)

    async def attempt(self, number, ask):
        item = chat(f"Say {self._words[number]}", BatchSampling(max_tokens=8, seed=number))
        (output,) = await ask([item])
        turns = (Turn("user", item.messages[-1].content), Turn("assistant", output.text))
        draft = Draft(turns, str(number), prompt_sha(item), item.sampling, output.finish_reason)
        return Outcome([draft])

    def learn(self, question, tags, /):
        pass

    def spares(self):
        return frozenset()

    def facts(self):
        return {"words": len(self._words)}


class ShortConfig(VerifierConfig):
    most: int


class Short:
    config_model = ShortConfig
    models = ()

    def __init__(self, config):
        self._most = config.most

    @classmethod
    def open(cls, config, sources):
        return cls(config)

    async def verify(self, candidate, ask):
        fits = len(candidate.reply) <= self._most
        return Verdict(fits, why="" if fits else f"longer than {self._most}")


def polite(draft):
    return None if "please" in draft.reply else "says no please"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, where pip put it."""
    project, target = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "echo_strategy.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--target", str(target), str(project)], capture_output=True, text=True, timeout=240, check=False
    )
    if "No module named pip" in done.stderr:
        pytest.skip("there is no pip here")
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(target)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("installed")
def test_an_installed_strategy_is_one_like_others(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    assert "known are self_instruct, fix_eval_failures, custom, best_of_n, pipeline, echo" in run_setup.refusal("ehco")
    assert run_setup.refusal("echo", words=["yes"], wrods=1) == "config.wrods: unknown field"
    engine = SayingEngine(lambda item: "yes please" if "yes" in str(item.messages) else "no")
    result = run_setup.run(engine, "echo", words=["yes", "no"], filters=["polite"], num_examples=2)
    assert (result["accepted"], result["words"], result["rejected"]) == (1, 2, {"polite": 1})
    (row,) = run_setup.rows()
    assert row["metadata"]["strategy"] == "echo"
    short = {"name": "short", "most": 5}
    assert "known are numeric" in run_setup.refusal("echo", words=["yes"], verifiers=[{"name": "shrot"}])
    assert "config.verifiers.0.most: is missing" in run_setup.refusal(
        "echo", words=["y"], verifiers=[{"name": "short"}]
    )
    verified = run_setup.run(engine, "echo", job="data_gen_2", words=["yes", "no"], verifiers=[short], num_examples=2)
    assert (verified["verified_by"], verified["rejected"]) == ({"short": 1}, {"not_verified": 1})
