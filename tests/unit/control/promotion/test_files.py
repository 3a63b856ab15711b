"""A promotion's folder read again: what is missing is said, and a report holds no more in memory than it shows."""

import tracemalloc
from pathlib import Path

import pytest

from control.promotion.files import (
    BASELINE_FILE,
    CANDIDATE_FILE,
    CONFIG_FILE,
    ORDER_FILE,
    REUSED_FILE,
    replay,
    write_decision,
)
from control.promotion.report import report_of
from evals.run_files import write_json
from evals.samples_log import open_samples
from stepserve.report.blocks import Curve
from tests.unit.control.promotion.test_verdict import config, record

QUESTIONS = 200
LONG = "x" * 20_000


@pytest.fixture
def decided(tmp_path: Path) -> Path:
    """Nobody is better; every answer is long. Nothing was reused, and the log of that is there all the same."""
    folder = tmp_path / "0"
    folder.mkdir()
    write_json(tmp_path / CONFIG_FILE, config({}).model_dump(mode="json"))
    names = [str(number) for number in range(QUESTIONS)]
    write_json(folder / ORDER_FILE, {"units": [[name] for name in names]})
    for file, wanted in ((REUSED_FILE, []), (BASELINE_FILE, names), (CANDIDATE_FILE, names)):
        with open_samples(folder / file) as log:
            log.append(record(name, float(int(name) % 2)).model_copy(update={"prediction": LONG}) for name in wanted)
    assert write_decision(tmp_path)["decision"] == "undecided"
    return tmp_path


def test_a_file_that_is_gone_is_named_though_the_numbers_are_the_same(decided: Path) -> None:
    assert replay(decided)[1] == []
    (decided / "0" / REUSED_FILE).unlink()
    assert replay(decided)[1] == [f"0/{REUSED_FILE} is gone"]


def test_a_report_holds_no_answers_in_memory(decided: Path) -> None:
    result = {**replay(decided)[0], "canary": None, "activation": None}
    tracemalloc.start()
    page = report_of("p", result, decided)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert any(isinstance(block, Curve) for block in page.blocks)
    assert peak_bytes < 100 * len(LONG)
