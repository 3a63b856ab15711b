"""Task files of other harnesses as eval jobs: the harness is a program of the tests, all else is real."""

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from stepserve.contract import AskItem
from tests.eventually import DEADLINE_S, eventually
from tests.integration.fake_gateway import FakeGateway
from tests.integration.serving import serving
from tests.integration.task_control import (
    WRONG,
    add_model,
    application,
    control,
    gateway_of,
    install_fake,
    write_task,
)
from tests.integration.test_cli import stepserve

HALF = "4+1="  # the question at which a task file's program misbehaves
BODY = {"model_id": "m", "name": "sums", "task": {"file": "sums.yaml"}}


@asynccontextmanager
async def full_stack(base: Path, **task_files: Any) -> AsyncIterator[tuple[httpx.AsyncClient, FakeGateway]]:
    install_fake(base)
    gateway = gateway_of(base)
    async with gateway.running(), control(base, **task_files) as http:
        await add_model(base, http)
        yield http, gateway


async def make(http: httpx.AsyncClient, **changes: Any) -> str:
    made = await http.post("/eval/tasks", json=BODY | changes)
    assert made.status_code == 200, made.text
    return str(made.json()["job_id"])


async def over(http: httpx.AsyncClient, job_id: str) -> Any:
    async def look() -> Any:
        return (await http.get(f"/jobs/{job_id}")).json()

    return await eventually(look, lambda job: job["status"] in {"done", "failed", "cancelled"})


async def failure(http: httpx.AsyncClient, **changes: Any) -> str:
    job = await over(http, await make(http, **changes))
    assert job["status"] == "failed", job
    return str(job["error"])


async def read_when_there(path: Path) -> str:
    async def look() -> str:
        return path.read_text() if path.exists() else ""

    return str(await eventually(look, bool))


async def ended(*pids: int) -> None:
    async def look() -> list[int]:
        return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]

    await eventually(look, lambda left: not left)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


async def test_a_task_file_is_an_eval_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_SECRET_OF_A_TEST", "x")
    write_task(tmp_path)
    async with full_stack(tmp_path) as (http, _):
        told = (await http.get("/eval/tasks")).json()
        assert told["files"] == [{"file": "sums.yaml", "harness": "lm_eval"}]
        assert {name: one["installed"] for name, one in told["harnesses"].items()} == {
            "lm_eval": True,
            "inspect": False,
        }
        first = await over(http, await make(http, seed=7))
        second = await over(http, await make(http, max_samples=4))
        assert first["status"] == "done", first["error"]
        result = first["result"]
        assert (result["accuracy"], result["total_samples"]) == (7 / 8, 8)
        assert (result["accuracy_metric"], result["prompt_tokens"], result["harness"]["requests"]) == (
            "exact_match",
            32,
            8,
        )
        folder = tmp_path / "runs" / "eval" / first["id"]
        assert json.loads((folder / "metrics.json").read_text())["accuracy"] == 7 / 8
        assert sorted(path.name for path in folder.iterdir()) == [
            ".lock", "config.json", "harness.log", "metrics.json", "samples.jsonl",
        ]  # fmt: skip
        assert "asked 8, length 512, seed 7, secrets []" in (folder / "harness.log").read_text()
        query = {"a": first["id"], "b": second["id"]}
        compared = (await http.get("/eval/compare", params=query)).json()
        assert (compared["paired"], compared["difference"], compared["metric"]) == (4, 0, "exact_match")
        page = (await http.get(f"/eval/jobs/{first['id']}/samples?verdict=wrong")).json()
        assert [(one["id"], one["prediction"]) for one in page["samples"]] == [(f"q{WRONG}", "no")]
        points = (await http.get("/eval/history?dataset=sums.yaml")).json()["points"]
        assert sorted(point["accuracy"] for point in points) == [3 / 4, 7 / 8]
        assert len({point["series"] for point in points}) == 2, "other settings are another series"
        again = await http.post("/eval/tasks", json=BODY | {"seed": 7, "dedupe": True})
        assert again.json()["job_id"] == first["id"]


async def test_a_crash_says_the_last_words(tmp_path: Path) -> None:
    write_task(tmp_path, behave="crash")
    async with full_stack(tmp_path) as (http, _):
        error = await failure(http)
        assert error.startswith("lm_eval ended with code 1")
        assert "the metric cannot be computed" in error
        write_task(tmp_path, model="another")
        assert "cannot ask the model 'another'" in await failure(http)


async def test_limits_end_a_run_and_say_which(tmp_path: Path) -> None:
    for behave in ("hang", "write", "grow"):
        write_task(tmp_path, f"{behave}.yaml", behave=behave)
    async with full_stack(tmp_path, time_limit_s=3, output_bytes=20_000_000, memory_bytes=1_000_000_000) as (http, _):
        assert "time_limit_s" in await failure(http, task={"file": "hang.yaml"})
        assert "output_bytes" in await failure(http, task={"file": "write.yaml"})
        assert "MemoryError" in await failure(http, task={"file": "grow.yaml"})


async def test_cancelled_it_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    write_task(tmp_path, behave="hang")
    async with full_stack(tmp_path) as (http, _):
        job_id = await make(http)
        work = tmp_path / "runs" / "eval" / job_id / "work" / "tmp"
        pids = [int(await read_when_there(work / name)) for name in ("pid", "away")]
        (await http.post(f"/jobs/{job_id}/cancel")).raise_for_status()
        await ended(*pids)
        assert (await over(http, job_id))["status"] == "cancelled"


async def test_killed_with_control_it_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    write_task(tmp_path)
    install_fake(tmp_path)
    gateway = gateway_of(tmp_path)
    asked: Counter[str] = Counter()
    may_go, half = asyncio.Event(), asyncio.Event()

    async def hold_at_half(item: AskItem) -> None:
        if item.body["prompt"] == HALF:
            half.set()
            await may_go.wait()
        asked[item.body["prompt"]] += 1

    gateway.before_reply = hold_at_half
    program = (sys.executable, "-m", "tests.integration.task_control", str(tmp_path), json.dumps(BODY))
    async with gateway.running():
        doomed = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        try:
            assert doomed.stdout is not None
            async with asyncio.timeout(DEADLINE_S):
                job_id = (await doomed.stdout.readline()).decode().strip()
                await half.wait()
            pid = int((tmp_path / "runs" / "eval" / job_id / "work" / "tmp" / "pid").read_text())
        finally:
            doomed.kill()
            await doomed.wait()
        await ended(pid)
        may_go.set()
        async with control(tmp_path) as http:
            job = await over(http, job_id)
    assert (job["status"], job["result"]["accuracy"], job["attempt"]) == ("done", 7 / 8, 2)
    assert job["result"]["harness"]["requests_replayed"] == 4
    del asked[HALF]  # of the first attempt nobody knows whether it was answered
    assert set(asked.values()) == {1}


async def test_a_model_that_leaves_is_waited_for_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    write_task(tmp_path)
    async with full_stack(tmp_path) as (http, gateway):

        async def leave_once(item: AskItem) -> None:
            if item.body["prompt"] == HALF:
                gateway.before_reply = None
                gateway.active = None

        gateway.before_reply = leave_once
        job = await over(http, await make(http))
        assert (job["status"], job["result"]["accuracy"]) == ("done", 7 / 8), job["error"]
        assert job["result"]["harness"]["requests_replayed"] == 5
        assert [one["outcome"] for one in job["attempts"]][-2:] == ["released", "done"]


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"task": {"file": "../db.sqlite"}}, "task.file"),
    ({"task": {"file": "none.yaml"}}, "task.file"),
    ({"task": {"file": "notes.txt"}}, "task.file"),
    ({"task": {"file": "outside.yaml"}}, "task.file"),
    ({"task": {"file": "sums.yaml", "harness": "inspect"}}, "task.harness"),
    ({"task": {"file": "sums.yaml", "args": {"a": 1}}}, "task.args"),
    ({"task": {"file": "sums.yaml", "include_path": "/"}}, "task.include_path"),
    ({"task": {"file": "sums.py"}}, "stepserve eval install-harness inspect"),
    ({"task": {"file": "sums.py", "args": {"a": float("nan")}}}, "task.args"),
    ({"seed": -1}, "seed"),
    ({"max_samples": 0}, "max_samples"),
    ({"metrics": ["f1"]}, "metrics"),
)


async def test_a_wrong_request_is_refused_naming_the_field(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "tasks" / "notes.txt").touch()
    (tmp_path / "tasks" / "sums.py").touch()
    (tmp_path / "secret.yaml").touch()
    (tmp_path / "tasks" / "outside.yaml").symlink_to(tmp_path / "secret.yaml")
    async with full_stack(tmp_path) as (http, _):
        for changes, said in REFUSED:
            answer = await http.post("/eval/tasks", content=json.dumps(BODY | changes))
            assert answer.status_code in {404, 422}, changes
            assert said in answer.json()["detail"]
        assert (await http.get("/jobs")).json()["total"] == 0


async def test_off_nobody_and_else_only_the_scope_that_the_setting_names(tmp_path: Path) -> None:
    write_task(tmp_path)
    as_jobs = {"x-stepserve-key": "aaaaaaaaaa", "x-stepserve-scopes": "jobs"}
    as_admin = {"x-stepserve-key": "bbbbbbbbbb", "x-stepserve-scopes": "admin"}
    async with full_stack(tmp_path, run_by="nobody") as (http, _):
        answer = await http.post("/eval/tasks", json=BODY, headers=as_admin)
        assert (answer.status_code, "task_files.run_by" in answer.json()["detail"]) == (403, True)
    async with gateway_of(tmp_path).running(), control(tmp_path, run_by="admin") as http:
        assert (await http.post("/eval/tasks", json=BODY, headers=as_jobs)).status_code == 403
        made = (await http.post("/eval/tasks", json=BODY, headers=as_admin)).json()
        (await http.post("/models/set_active", json={"id": "m"})).raise_for_status()
        assert (await over(http, made["job_id"]))["status"] == "done"


async def test_a_job_runs_what_it_was_made_for_or_fails_saying_so(tmp_path: Path) -> None:
    write_task(tmp_path, "hang.yaml", behave="hang")
    write_task(tmp_path)
    async with full_stack(tmp_path) as (http, _):
        first = await make(http, task={"file": "hang.yaml"})  # one job at a time
        second = await make(http)
        write_task(tmp_path, questions=4)
        (await http.post(f"/jobs/{first}/cancel")).raise_for_status()
        job = await over(http, second)
        assert (job["status"], "sums.yaml" in job["error"], "changed" in job["error"]) == ("failed", True, True)
        (await http.post(f"/jobs/{first}/retry")).raise_for_status()
        await read_when_there(tmp_path / "runs" / "eval" / first / "work" / "tmp" / "pid")
    async with gateway_of(tmp_path).running(), control(tmp_path, run_by="nobody") as http:
        (await http.post("/models/set_active", json={"id": "m"})).raise_for_status()
        job = await over(http, first)
        assert (job["status"], "task_files.run_by" in job["error"]) == ("failed", True)


async def test_from_the_command_line(tmp_path: Path) -> None:
    write_task(tmp_path)
    install_fake(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with gateway_of(tmp_path).running(), serving(application(tmp_path), listener):
        async with httpx.AsyncClient(base_url=url, timeout=240) as http:
            await add_model(tmp_path, http)
        code, out, _ = await stepserve("eval", "tasks", url=url)
        assert (code, "sums.yaml" in out, "inspect 0.3.285: not installed" in out) == (0, True, True)
        code, out, err = await stepserve("eval", "task", "sums.yaml", "--max-samples", "4", "--json", url=url)
        assert code == 0, err
        assert json.loads(out)["result"]["accuracy"] == 3 / 4
        code, _, err = await stepserve("eval", "task", "sums.yaml", "--arg", "a=1", url=url)
        assert (code, "task.args" in err) == (2, True)
        code, _, err = await stepserve("eval", "task", "sums.yaml", "--arg", "a", url=url)
        assert (code, "key=value" in err) == (2, True)
