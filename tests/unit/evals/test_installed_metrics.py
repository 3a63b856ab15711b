"""Metrics of somebody else's: from the text, in a scoring process, in the sandbox, and with a parameter in the name."""

import asyncio
import importlib
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from control.errors import Invalid
from evals.formats import parse_sample
from evals.kind import EvalKind
from evals.metrics import metric_named
from evals.record import record_of
from evals.request import EvalJobRequest
from evals.sandbox import why_no_sandbox
from evals.scoring import Scoring
from stepserve.contract import BatchOutput
from tests.unit.evals.adding_engine import AddingEngine, RunContext

POINTS = """
[stepserve.eval_metrics]
brief = others_metrics:BRIEF
closeness = others_metrics:CLOSENESS
odd = others_metrics:ODD
solved = others_metrics:SOLVED
within = others_metrics:within
misnamed = others_metrics:BRIEF
homeless = others_metrics:HOMELESS
absent = others_metrics:NOTHING
"""
MODULE = """
import os
from statistics import median

from evals.metrics import Metric, unless_program
from evals.scorers import Score

CONTROL = {pid}


def _brief(prediction, question):
    return Score(value=1 / len(prediction), correct=None)


def _closeness(prediction, question):
    assert os.getpid() != CONTROL, "this may take long"
    off = abs(float(prediction) - float(question.accepted[0]))
    return Score(value=1 / (1 + off), correct=None, extracted=prediction)


def _odd(prediction, question):
    raise ZeroDivisionError("odd")


BRIEF = Metric("brief", "text", False, scorer=_brief, aggregate=median)
CLOSENESS = Metric("closeness", "process", False, scorer=_closeness)
ODD = Metric("odd", "process", True, scorer=_odd)
SOLVED = Metric("solved", "program", True, unless_program)
HOMELESS = Metric("homeless", "loss", False)


def within(parameter):
    try:
        most = float(parameter)
    except ValueError:
        return None

    def scorer(prediction, question):
        right = abs(float(prediction) - float(question.accepted[0])) <= most
        return Score(value=float(right), correct=right)

    return Metric(f"within@{{parameter}}", "text", True, scorer=scorer)
"""
SUMS = [3, 4, 6, 8, 9, 10, 12, 16]  # the engine takes 10 for 11
pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as pip leaves it, found by this process and by those that it starts."""
    site = tmp_path / "site"
    facts = site / "others_metrics-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-metrics\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)
    (site / "others_metrics.py").write_text(MODULE.format(pid=os.getpid()))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    importlib.invalidate_caches()


def _context(folder: Path, *metrics: str) -> RunContext:
    datasets = folder / "datasets"
    datasets.mkdir(exist_ok=True)
    lines = [json.dumps({"question": f"What is {total}+0?", "answer": total}) + "\n" for total in SUMS]
    (datasets / "sums.jsonl").write_text("".join(lines))
    asked = EvalJobRequest(model_id="m", name="n", dataset_ref="sums", metrics=list(metrics))
    config = EvalKind().check(asked, datasets)
    return RunContext(config=config, run_dir=folder / "run", datasets_dir=datasets, adding=AddingEngine())


def _run(context: RunContext) -> dict[str, Any]:
    return asyncio.run(EvalKind().run(context))


def test_each_is_worked_out_where_it_says_and_shown_with_its_aggregate(tmp_path: Path) -> None:
    context = _context(tmp_path, "within@0.5", "brief", "closeness")
    result = _run(context)
    assert (result["accuracy_metric"], result["correct"], result["total_samples"]) == ("within@0.5", 7, 8)
    assert result["metrics"]["closeness"]["mean"] == pytest.approx(7.5 / 8)
    values = [1.0] * 5 + [0.5] * 3  # of numbers of one digit and two
    assert result["metrics"]["brief"]["mean"] == pytest.approx(sum(values) / 8)
    assert result["metrics"]["brief"]["aggregate"] == median(values)


def test_one_that_fails_in_its_process_is_an_error_of_the_sample(tmp_path: Path) -> None:
    result = _run(_context(tmp_path, "odd"))
    assert result["metrics"]["odd"]["errors"] == len(SUMS)


@pytest.mark.skipif(why_no_sandbox() is not None, reason=str(why_no_sandbox()))
def test_one_runs_programs_in_the_sandbox() -> None:
    line = {
        "task_id": "a",
        "prompt": "def one():\n",
        "test": "def check(f):\n    assert f() == 1",
        "entry_point": "one",
    }
    sample = parse_sample(json.dumps(line | {"canonical_solution": "    return 1\n"}).encode(), line=1, index=0)

    async def verdict(answer: str) -> bool | None:
        record = record_of(sample, BatchOutput(text=answer, finish_reason="stop"), "sha256:aa")
        async with Scoring(["solved"]) as scoring:
            return (await scoring.score([record]))[0].correct

    assert asyncio.run(verdict("    return 1\n")) is True
    assert asyncio.run(verdict("    return 2\n")) is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("brif", r"unknown metric 'brif'; known are accuracy, .*pass@k for any k, absent, brief, "),
        ("within@far", "unknown metric 'within@far'"),
        ("within", "unknown metric 'within'"),
        ("brief@2", "unknown metric 'brief@2'"),
        ("misnamed", "gives a metric that is called 'brief'"),
        ("homeless", "has a scorer in `text` or `process`"),
        ("absent", "cannot be imported: .*NOTHING"),
    ],
)
def test_a_name_that_gives_no_metric_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(Invalid, match=f"^metrics: .*{said}"):
        _context(tmp_path, name)


@pytest.mark.parametrize("name", ["pass@0", "pass@257", "pass@1000", "pass@01", "pass@", "pass@²", "accuracy@1"])
def test_no_name_of_ours_takes_another_parameter(name: str) -> None:
    assert metric_named(name) is None
