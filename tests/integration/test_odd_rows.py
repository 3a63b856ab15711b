"""Rows of `jobs` that nobody but a person with `sqlite3` writes: each is failed or shown, and no other job notices."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control_plane, run_sql

PENDING = {
    "type": "'echo'", "model_id": "'a'", "model_digest": "(SELECT digest FROM models LIMIT 1)", "status": "'pending'",
    "config": """'{"steps": 1}'""", "attempt": "0", "priority": "1", "when_inactive": "'wait'", "setbacks": "0",
    "progress_done": "0", "created_at": "'2026-01-01 00:00:00.000000'",
}  # fmt: skip
DONE, FAILED, SHOWN = ("done", None), "failed", ("pending", None)
NO_OBJECT = (FAILED, "its config in the database is not a JSON object")

# By id: what differs from a good row, the status it ends with and a part of its error.
ODD: dict[str, tuple[dict[str, str], tuple[str, str | None]]] = {
    "broken_json": ({"config": "'{broken'"}, NO_OBJECT),
    "a_list": ({"config": "'[1]'"}, NO_OBJECT),
    "null": ({"config": "'null'"}, NO_OBJECT),
    "deep": ({"config": f"'{'[' * 50_000}'"}, NO_OBJECT),
    "a_blob": ({"config": "x'00ff'"}, NO_OBJECT),
    "other_config": ({"config": "'{}'"}, (FAILED, "KeyError: 'steps'")),
    "no_model": ({"model_id": "'gone'"}, (FAILED, "its model was removed")),
    "no_time": ({"created_at": "'yesterday'"}, DONE),
    "number_for_time": ({"created_at": "12345"}, DONE),
    "end_of_time": ({"created_at": "'9999-12-31 23:59:59.999999'"}, DONE),
    "odd_rest": ({"not_before": "'tomorrow'"}, DONE),
    "words_for_numbers": ({"priority": "'high'", "setbacks": "'many'", "attempt": "'x'"}, DONE),
    "huge_numbers": ({"attempt": "9223372036854775807", "priority": "-9223372036854775808"}, DONE),
    "odd_lease": ({"status": "'running'", "lease_owner": "'me'", "lease_expires_at": "'never'"}, DONE),
    "no_lease": ({"status": "'running'"}, DONE),
    "odd_progress": ({"progress_done": "'half'", "progress_total": "1.5"}, DONE),
    "odd_wish": ({"when_inactive": "'perhaps'"}, DONE),
    "odd_result": ({"status": "'done'", "type": "'pull'", "result": "'[1]'"}, DONE),
    "broken_result": ({"status": "'done'", "result": "'{nope'", "finished_at": "'now'"}, DONE),
    "unknown_type": ({"type": "'nonsense'"}, SHOWN),
    "type_in_bytes": ({"type": "x'00ff'"}, SHOWN),
    "path_for_type": ({"type": "'../../x'"}, SHOWN),
}


def _insert(id_: str, changes: dict[str, str]) -> str:
    row = {"id": f"'{id_}'", **PENDING, **changes}
    return f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join(row.values())})"


async def _seen(here: ControlPlane, id_: str, status: str) -> dict[str, Any]:
    job: dict[str, Any] = await eventually(lambda: here.get(f"/jobs/{id_}"), lambda job: job["status"] == status)
    return job


async def test_an_odd_row_is_failed_or_shown_and_holds_up_no_other(tmp_path: Path) -> None:
    async with control_plane(tmp_path, job_lease_s=1.0) as here:
        await here.add_active("a")
        for id_, (changes, _) in ODD.items():
            await run_sql(tmp_path, _insert(id_, changes))
        polite = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.job(polite, "done")
        for id_, (_, (status, error)) in ODD.items():
            job = await _seen(here, id_, status)
            assert error is None or error in job["error"], job
        for path in ("/jobs", "/jobs/stats", "/jobs?status=failed"):
            await here.get(path)
        assert (await here.http.get("/metrics")).status_code == 200
        assert len((await here.get("/jobs"))["jobs"]) == len(ODD) + 1


async def test_an_id_that_leads_out_of_the_runs_makes_no_folder(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await run_sql(tmp_path, _insert("../../outside", {}))

        async def look() -> Any:
            return (await here.get("/jobs"))["jobs"][0]

        job = await eventually(look, lambda job: job["status"] == "failed")
        assert "its id is none that a job can have" in job["error"]
        assert not (tmp_path / "outside").exists()


async def test_an_unknown_status_is_refused_by_the_database(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        for status in ("'weird'", "NULL"):
            with pytest.raises(IntegrityError):
                await run_sql(tmp_path, _insert("odd", {"status": status}))


async def test_two_hundred_tiny_jobs(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        made = await asyncio.gather(*(here.post("/echo/jobs", model_id="a") for _ in range(200)))
        assert len({one["job_id"] for one in made}) == 200
        stats = await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["done"] == 200)
        assert (stats["failed"], stats["pending"]) == (0, 0)
