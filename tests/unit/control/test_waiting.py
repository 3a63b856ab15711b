from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from control.database.tables import NO_DIGEST, JobRow
from control.jobs.waiting import EngineView, RunnerView, waiting_for

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
FREE = RunnerView(
    held={}, running={}, limits={}, engine_running=0, engine_places=2, standalone_places=2,
    loading=None, ready=frozenset(), refused={},
)  # fmt: skip
QUIET = EngineView(active_id="a", switching_to=None, borrowed_by=None)
BESIDE = "room to load b or its activation"


def _job(**changes: Any) -> JobRow:
    row = {
        "id": "eval_1", "type": "eval", "model_id": "a", "model_digest": "sha256:aa", "status": "pending",
        "when_inactive": "wait", "not_before": None,
    }  # fmt: skip
    return JobRow(**{**row, **changes})


@pytest.mark.parametrize("status", ["running", "done", "failed", "cancelled"])
def test_only_a_pending_job_waits(status: str) -> None:
    assert waiting_for(_job(model_id="b", status=status), FREE, QUIET, NOW) is None


@pytest.mark.parametrize(
    ("job", "runner", "engine", "expected"),
    [
        ({}, {}, {}, None),
        ({}, {"engine_running": 2}, {}, "a free place (2 of 2 jobs run)"),
        (
            {},
            {"engine_running": 1, "running": {"eval": 1}, "limits": {"eval": 1}},
            {},
            "a free place (1 of 1 eval jobs run)",
        ),
        ({}, {"held": {"eval": "space on the disk"}, "engine_running": 2}, {}, "space on the disk"),
        ({"not_before": NOW + timedelta(seconds=5)}, {}, {}, "its next attempt, at 2026-01-01T12:00:05+00:00"),
        ({"not_before": NOW - timedelta(seconds=5)}, {}, {}, None),
        ({"type": "pull", "model_digest": NO_DIGEST}, {"engine_running": 2}, {}, None),
        (
            {"type": "pull", "model_digest": NO_DIGEST},
            {"running": {"pull": 2}},
            {},
            "a free place (2 of 2 pull jobs run)",
        ),
        ({}, {}, {"borrowed_by": "eval_2"}, "job eval_2, which has borrowed the engine"),
        ({"model_id": "b"}, {}, {"borrowed_by": "eval_1", "active_id": "b"}, None),
        ({"model_id": "b"}, {"ready": {"b"}}, {}, None),
        ({"model_id": "b"}, {"ready": {"b"}, "engine_running": 2}, {}, "a free place (2 of 2 jobs run)"),
        (
            {"model_id": "b"},
            {"loading": "b"},
            {},
            "model b, which is being loaded",
        ),
        ({"model_id": "b"}, {"loading": "c"}, {}, BESIDE),
        ({"model_id": "b"}, {"refused": {"b": "b has no room"}}, {}, f"{BESIDE} (not possible now: b has no room)"),
        ({"model_id": "b"}, {"engine_running": 2}, {}, f"a free place (2 of 2 jobs run), and {BESIDE}"),
        ({"model_id": "b"}, {}, {"switching_to": "b"}, "the running switch to model b"),
        ({}, {}, {"switching_to": "b"}, None),
        (
            {"model_id": "b", "when_inactive": "switch"},
            {"engine_running": 1},
            {},
            "a quiet moment to switch to model b (1 job runs)",
        ),
        (
            {"model_id": "b", "when_inactive": "switch"},
            {},
            {"switching_to": "c"},
            "a quiet moment to switch to model b (a switch to model c is under way)",
        ),
        ({}, {}, {"active_id": None}, "the activation of a"),
    ],
)
def test_what_a_job_waits_for(
    job: dict[str, Any], runner: dict[str, Any], engine: dict[str, Any], expected: str | None
) -> None:
    assert waiting_for(_job(**job), replace(FREE, **runner), replace(QUIET, **engine), NOW) == expected
