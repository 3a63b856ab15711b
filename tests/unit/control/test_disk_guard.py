from pathlib import Path

from control.jobs.disk_guard import why_paused

BASE, MODELS = Path("/base"), Path("/models")


def test_the_fullest_disk_decides() -> None:
    assert why_paused({BASE: 200, MODELS: 100}, 100, paused=False) is None
    reason = why_paused({BASE: 200_000_000, MODELS: 90_000_000}, 100_000_000, paused=False)
    assert reason is not None
    assert "/models: 0.09 GB" in reason
    assert "0.10 GB (min_free_disk_bytes)" in reason


def test_space_that_comes_and_goes_does_not_stop_and_start_jobs() -> None:
    assert why_paused({BASE: 105}, 100, paused=True) is not None
    assert why_paused({BASE: 110}, 100, paused=True) is None


def test_a_disk_that_does_not_answer_pauses_nothing() -> None:
    assert why_paused({}, 100, paused=True) is None
