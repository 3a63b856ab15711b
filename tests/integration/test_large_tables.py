"""What control asks of its database stays cheap when there are a million jobs: read by an index, counted by nobody."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, text
from sqlalchemy.ext.asyncio import create_async_engine

from control.access.view import EVERYTHING, View
from control.database.database import Database, database_url, url_of
from control.database.tables import JobRow, ModelRow
from control.jobs.queue import JobQueue
from control.models.eval_history import EvalHistory
from control.models.placed_folders import PlacedFolders
from control.models.repository import ModelRepository
from control.notifications.outbox import Outbox
from stepserve.jobs.eval_ports import DoneEval
from stepserve.paths import Layout
from tests.integration.control_plane import control, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway

NOW = datetime(2026, 12, 1, tzinfo=UTC)
MODELS = 450
STATUSES = ("pending", "running", "done", "failed", "cancelled")
_READS_ALL = re.compile(r"SCAN jobs(?! USING (COVERING )?INDEX ix_jobs_(created_at_id_model_id|status_created_at)\b)")
Statements = list[tuple[str, Any]]


def job(number: int, **given: Any) -> dict[str, Any]:
    created_at = NOW - timedelta(seconds=number)
    return {
        "id": f"eval_{number:04d}", "type": "echo", "model_id": "m", "model_digest": "sha256:0", "status": "done",
        "config": {"dataset": {"name": "d"}}, "result": {}, "attempt": 1, "progress_done": 0, "created_at": created_at,
        "finished_at": created_at, "unannounced": None, "created_by": "anna",
    } | given  # fmt: skip


def model(number: int) -> dict[str, Any]:
    return {
        "id": f"m{number}", "path": f"/models/m{number}", "source": "test", "tags": [], "digest": f"sha256:{number}",
        "architecture": "A", "size_bytes": 1, "created_at": NOW - timedelta(seconds=number), "has_template": True,
        "policies_due": None,
    }  # fmt: skip


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()


@contextmanager
def statements() -> Iterator[Statements]:
    """All that this process asks of any database meanwhile."""
    seen: Statements = []

    def note(_connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def plans(url: str, asked: Statements) -> dict[str, str]:
    """How SQLite would go about each statement that reads or changes jobs."""
    found = {}
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        for statement, parameters in asked:
            if re.search(r"(FROM|UPDATE) jobs", statement):
                rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found[statement] = "; ".join(row.detail for row in rows)
    await engine.dispose()
    return found


@pytest.mark.parametrize("view", [EVERYTHING, View("anna")], ids=["everybody", "one key"])
async def test_no_question_reads_all_jobs(layout: Layout, view: View) -> None:
    url = database_url(layout.database)
    async with opened(url) as database:
        queue = JobQueue(database, 30.0)
        history = EvalHistory(database, layout.eval_runs)
        done = DoneEval("eval_0", "m", "sha256:0", {}, {}, Path("/none"), NOW)
        with statements() as asked:
            await queue.page(None, None, "", 0, 100, view=view)
            await queue.page(None, None, "7", 0, 100, view=view)
            await queue.page("eval", None, "", 0, 100, view=view)
            await queue.page(None, "failed", "", 0, 100, view=view)
            await queue.page("data_gen", "failed", "", 0, 100, view=view)
            await queue.newest_first("batch", "running", 100, view=view)
            await queue.stats(view)
            await queue.stats(view, "eval")
            await queue.census()
            await queue.date_endings()
            await queue.fail_orphans()
            await queue.leases()
            await queue.take("me", ["eval"], (), ["m"])
            await queue.waiting_models(["eval"])
            await queue.unfinished()
            await history.newest(100, view)
            await history.count(view)
            await history.by_dataset("d", view)
            await history.alike(done, str, view)
            await Outbox(database).ended()
    found = await plans(url, asked)
    assert len(found) > 12
    assert {statement: plan for statement, plan in found.items() if _READS_ALL.search(plan)} == {}
    counted = [statement for statement in found if "count(*)" in statement and "finished_at" not in statement]
    assert [statement for statement in counted if "LIKE" not in statement] == []


@pytest.mark.usefixtures("each_database")
async def test_numbers_follow_whoever_changes_jobs(tmp_path: Path) -> None:
    async with control(tmp_path, FakeGateway(tmp_path / "none")) as control_plane:
        engine = create_async_engine(url_of(settings_of(tmp_path)))
        async with engine.begin() as connection:
            rows = [
                job(number, status=STATUSES[number % 5], created_by=("anna", None)[number % 2]) for number in range(20)
            ]
            await connection.execute(insert(JobRow), [row | {"status": "done"} for row in rows[:10]] + rows[10:])
        await engine.dispose()
        await run_sql(tmp_path, "UPDATE jobs SET status = 'cancelled' WHERE id IN ('eval_0001', 'eval_0002')")
        await run_sql(tmp_path, "UPDATE jobs SET type = 'data_gen', created_by = 'bob' WHERE id = 'eval_0003'")
        await run_sql(tmp_path, "UPDATE jobs SET priority = 7")
        await run_sql(tmp_path, "DELETE FROM jobs WHERE id = 'eval_0004'")
        stats, of_evals = await control_plane.get("/jobs/stats"), await control_plane.get("/jobs/stats?type=echo")
        listed = await control_plane.get("/jobs?limit=1000")
        cancelled = await control_plane.get("/jobs?status=cancelled&type=echo")
        metrics = (await control_plane.http.get("/metrics")).text
    engine = create_async_engine(url_of(settings_of(tmp_path)))
    async with engine.connect() as connection:
        kept = await connection.execute(
            text("SELECT type, status, created_by, n_jobs FROM job_counts WHERE n_jobs <> 0")
        )
        counted = await connection.execute(
            text("SELECT type, status, coalesce(created_by, ''), count(*) FROM jobs GROUP BY 1, 2, 3")
        )
        assert sorted(map(tuple, kept)) == sorted(map(tuple, counted))
    await engine.dispose()
    assert listed["total"] == len(listed["jobs"]) == 19
    assert cancelled["total"] == len(cancelled["jobs"]) == sum(each["status"] == "cancelled" for each in listed["jobs"])
    assert sum(stats[status] for status in STATUSES) == 19
    assert sum(of_evals[status] for status in STATUSES) == 18
    assert 'type="data_gen"' in metrics


async def test_every_model_is_listed_once_and_one_is_found(tmp_path: Path) -> None:
    async with control(tmp_path, FakeGateway(tmp_path / "none")) as control_plane:
        engine = create_async_engine(url_of(settings_of(tmp_path)))
        async with engine.begin() as connection:
            await connection.execute(insert(ModelRow), [model(number) for number in range(MODELS)])
        await engine.dispose()
        listed = (await control_plane.get("/models"))["models"]
        with statements() as asked:
            one = await control_plane.get("/models/m7")
    assert [each["id"] for each in listed] == [f"m{number}" for number in range(MODELS)]
    assert one == listed[7]
    assert all("WHERE" in statement for statement, _ in asked if "FROM models" in statement and "JOIN" not in statement)


async def test_a_folder_is_not_another_whose_name_differs_in_case(layout: Layout) -> None:
    async with opened(database_url(layout.database)) as database:
        models = ModelRepository(database, PlacedFolders(layout.models, database))
        for number, path in enumerate(["/models/Step/below", "/models/step_1", "/models/other"]):
            await models.add(ModelRow(**(model(number) | {"path": path})))
        assert await models.in_folder(Path("/models/step")) is None
        assert await models.in_folder(Path("/models/Step")) == "m0"
        assert await models.in_folder(Path("/models/other")) == "m2"
        assert await models.in_folder(Path("/models/other"), besides="m2") is None
        assert await models.has_content("sha256:1")
        assert not await models.has_content("sha256:9")
