from pathlib import Path

from stepserve.retention import DAY_S, Kept, plan

NOW_S = 100 * DAY_S


def _run(name: str, days_old: float, size_bytes: int = 10, *, may_go: bool = True) -> Kept:
    return Kept("run", Path(name), size_bytes, NOW_S - days_old * DAY_S, may_go)


def _names(going: list[Kept]) -> list[str]:
    return [one.path.name for one in going]


def test_without_a_setting_all_is_kept() -> None:
    assert plan([_run("old", 99)], None, None, NOW_S) == []


def test_by_age_what_is_needed_stays() -> None:
    runs = [_run("young", 1), _run("old", 8), _run("running", 20, may_go=False), _run("older", 9)]
    assert _names(plan(runs, 7, None, NOW_S)) == ["older", "old"]


def test_by_size_the_oldest_go_until_the_rest_fits() -> None:
    runs = [_run("a", 4), _run("b", 3), _run("c", 2), _run("d", 1)]
    assert _names(plan(runs, None, 25, NOW_S)) == ["a", "b"]
    assert _names(plan(runs, None, 40, NOW_S)) == []


def test_what_must_stay_counts_for_the_size() -> None:
    runs = [_run("running", 9, 100, may_go=False), _run("a", 4), _run("b", 3)]
    assert _names(plan(runs, None, 105, NOW_S)) == ["a", "b"]
