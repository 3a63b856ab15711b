"""What two records of a benchmark say of each other."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import Change, changes, main
from benchmarks.record import Better, Metric, Record, add_to


def record(rounds: list[float], *, better: Better = "higher", turns: str | None = None, name: str = "speed") -> Record:
    return Record.of([Metric(name=name, better=better, rounds=rounds)], "c0ffee", turns)


def noisy(centre: float, seed: int, rounds: int = 24, spread: float = 0.05) -> list[float]:
    return list(centre * np.exp(np.random.default_rng(seed).normal(0, spread, rounds)))


def only(before: Record, after: Record, tolerance: float = 0.0) -> Change:
    [found] = changes(before, after, tolerance)
    return found


@pytest.mark.parametrize(
    ("better", "factor", "verdict"),
    [("higher", 1.2, "better"), ("higher", 0.8, "worse"), ("lower", 1.2, "worse"), ("lower", 0.8, "better")],
)
def test_a_change_larger_than_the_noise_is_told(better: Better, factor: float, verdict: str) -> None:
    found = only(record(noisy(100, 1), better=better), record(noisy(100 * factor, 2), better=better))
    assert found.verdict == verdict
    assert found.low < factor < found.high


def test_noise_is_no_change() -> None:
    verdicts = [only(record(noisy(100, seed)), record(noisy(100, 1000 + seed))).verdict for seed in range(100)]
    assert verdicts.count("same") >= 90


def test_rounds_in_turns_find_what_a_noisy_machine_hides() -> None:
    """Every round meets what the machine does then, on both sides alike."""
    machine, extra = noisy(100, 3, spread=0.5), noisy(1.1, 4, spread=0.01)
    slower = [one / other for one, other in zip(machine, extra, strict=True)]
    assert only(record(machine, turns="t"), record(slower, turns="t")).verdict == "worse"
    assert only(record(machine), record(slower)).verdict == "same"
    assert only(record(machine, turns="t"), record(slower, turns="u")).verdict == "same"


def test_a_small_change_is_within_the_tolerance() -> None:
    before, after = record(noisy(100, 5, spread=0.001)), record(noisy(99, 6, spread=0.001))
    assert only(before, after).verdict == "worse"
    assert only(before, after, tolerance=0.02).verdict == "same"


def test_a_few_rounds_say_nothing() -> None:
    assert only(record([100.0, 101.0]), record([50.0, 51.0])).verdict == "too few rounds"


def test_records_of_one_commit_are_gathered_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    add_to(path, [Metric(name="a", better="higher", rounds=[1.0])])
    add_to(path, [Metric(name="b", better="lower", rounds=[2.0])])
    add_to(path, [Metric(name="a", better="higher", rounds=[3.0])])
    read = Record.read(path)
    assert {each.name: each.rounds for each in read.metrics} == {"a": [3.0], "b": [2.0]}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    return main()


def test_the_command_fails_where_something_is_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "A.json", tmp_path / "B.json"
    record(noisy(100, 7)).write(before)
    record(noisy(70, 8)).write(after)
    assert run(monkeypatch, str(before), str(after)) == 1
    assert "worse" in capsys.readouterr().out
    assert run(monkeypatch, str(after), str(before)) == 0


@pytest.mark.parametrize("content", [None, "{", '{"commit": "a"}', '{"metrics": [{"rounds": []}]}'])
def test_a_file_that_is_no_record_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    good, bad = tmp_path / "A.json", tmp_path / "B.json"
    record([1.0]).write(good)
    if content is not None:
        bad.write_text(content)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, str(good), str(bad))
    assert ended.value.code == 2
    assert str(bad) in capsys.readouterr().err
