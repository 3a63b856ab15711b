"""Webhooks against a real receiver: signed, tried again, given up, and told once of everything that ends."""

import asyncio
import base64
import hashlib
import hmac
import importlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.app import create_app
from control.routes import datasets, evals
from evals.dataset_store import FileDatasetStore
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.contract import BatchItem, BatchOutput, EngineDeath
from stepserve.outbound import Outbound
from tests.eventually import eventually
from tests.integration.control_plane import PACE, ControlPlane, control, control_plane, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.raw_server import reply, speaking
from tests.unit.control.checkpoint_files import write_checkpoint

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
ON_THIS_MACHINE: dict[str, Any] = {"webhook_hosts": ["127.0.0.1"]}
DUE = "UPDATE deliveries SET next_at = '2000-01-01 00:00:00' WHERE state = 'pending'"


@dataclass
class Receiver:
    """`statuses` are answered in order, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        self.bodies.append(await reader.readexactly(int(headers["content-length"])))
        self.heads.append(headers | {"line": head.splitlines()[0]})
        status = self.statuses.pop(0) if self.statuses else 200
        moved = "location: http://127.0.0.1:1/\r\n" if status == 302 else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{moved}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    def events(self) -> list[str]:
        return [json.loads(body)["event"] for body in self.bodies]

    async def has(self, count: int) -> None:
        async def look() -> int:
            return len(self.bodies)

        await eventually(look, lambda seen: seen >= count)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    here = Receiver()
    server = await asyncio.start_server(here.talk, "127.0.0.1", 0)
    here.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?team=a"
    try:
        yield here
    finally:
        server.close()


async def put(here: ControlPlane, name: str, **body: Any) -> Any:
    answer = await here.http.put(f"/webhooks/{name}", json=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def settled(here: ControlPlane, **wanted: Any) -> Any:
    """The newest delivery, once it has these values."""

    async def look() -> Any:
        found = (await here.get("/webhooks/deliveries"))["deliveries"]
        return found[0] if found else {}

    return await eventually(look, lambda seen: wanted.items() <= seen.items())


async def ended_job(here: ControlPlane, **config: Any) -> str:
    made = await here.post("/echo/jobs", model_id="a", **config)
    await eventually(lambda: here.get(f"/jobs/{made['job_id']}"), lambda job: job["status"] in {"done", "failed"})
    return str(made["job_id"])


@pytest.mark.usefixtures("each_database")
async def test_the_end_of_a_job_is_told_once_and_signed(tmp_path: Path) -> None:
    async with receiver() as there, control_plane(tmp_path, **ON_THIS_MACHINE) as here:
        await here.add_active("a")
        await put(here, "ci", url=there.url, events=["job.*"], secret=SECRET)
        job_id = await ended_job(here)
        await there.has(1)
        await settled(here, state="delivered", attempts=1)
        [head], [body] = there.heads, there.bodies
        assert head["line"] == "POST /hook?team=a HTTP/1.1"
        said = json.loads(body)
        assert (said["event"], said["data"]["job_id"], said["data"]["status"]) == ("job.done", job_id, "done")
        signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        # Headers are read in lower case, and base64 is not: the body of the comparison is.
        assert head["webhook-signature"] == f"v1,{signature}".lower()
        assert head["webhook-id"] == said["id"]
    # Another start does not tell it again.
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with receiver() as there, gateway.running(), control(tmp_path, gateway, **ON_THIS_MACHINE) as here:
        await put(here, "ci", url=there.url, events=["job.*", "activation.*"])
        await here.add_model("b", 1)
        await here.post("/models/set_active", id="b")
        await there.has(1)
        assert there.events() == ["activation.done"]


async def test_what_is_not_taken_is_sent_again_with_the_same_id_and_then_given_up(tmp_path: Path) -> None:
    async with receiver() as there, control_plane(tmp_path, **ON_THIS_MACHINE) as here:
        await here.add_active("a")
        await put(here, "ci", url=there.url, events=["job.done"])
        there.statuses = [503, 302, 200]
        await ended_job(here)
        for attempts, error in ((1, "answered 503"), (2, "answered 302")):
            await settled(here, state="pending", attempts=attempts, error=error)
            await run_sql(tmp_path, DUE)
        await settled(here, state="delivered", attempts=3, error=None)
        assert len({head["webhook-id"] for head in there.heads}) == 1

        there.statuses = [410]
        await ended_job(here)
        dead = await settled(here, state="dead", error="answered 410")
        retried = await here.post(f"/webhooks/deliveries/{dead['id']}/retry")
        assert retried["state"] == "pending"
        await settled(here, state="delivered", id=dead["id"])
        assert "only a dead one" in await here.refused(409, f"/webhooks/deliveries/{dead['id']}/retry")


async def test_a_job_that_ended_while_control_was_down_is_told_at_its_start(tmp_path: Path) -> None:
    async with receiver() as there:
        async with control_plane(tmp_path, **ON_THIS_MACHINE) as here:
            await here.add_active("a")
            await here.add_model("b", 1)
            await put(here, "ci", url=there.url, events=["job.cancelled"])
            made = await here.post("/echo/jobs", model_id="b")
        await run_sql(tmp_path, "UPDATE jobs SET status = 'cancelled' WHERE status = 'pending'")
        async with control_plane(tmp_path, **ON_THIS_MACHINE):
            await there.has(1)
    assert json.loads(there.bodies[0])["data"]["job_id"] == made["job_id"]


async def test_a_switch_that_failed_and_an_engine_that_died_as_a_chat_reads_them(tmp_path: Path) -> None:
    async with receiver() as there, control_plane(tmp_path, **ON_THIS_MACHINE) as here:
        await here.add_active("a")
        await here.add_model("b", 1)
        await put(here, "chat", url=there.url, form="slack", events=["activation.failed", "engine.died"])
        here.gateway.fail_with = "NaN in its weights"
        failed = await here.http.post("/models/set_active", json={"id": "b"})
        assert failed.status_code == 500
        await there.has(1)
        assert json.loads(there.bodies[0]) == {
            "text": "b was not activated: NaN in its weights; a serves"
        }  # fmt: skip
        at = "2099-01-01T00:00:00+00:00"
        here.gateway.deaths = [EngineDeath(number=1, model_id="a", active=True, at=at)]
        await there.has(2)
        assert json.loads(there.bodies[1]) == {"text": "the engine of a died and is being restarted"}
        here.gateway.deaths.append(EngineDeath(number=2, model_id="b", active=False, at=at))
        await there.has(3)
        assert json.loads(there.bodies[2]) == {"text": "the engine of b died"}


async def test_an_address_that_no_setting_names_is_not_connected_to(tmp_path: Path) -> None:
    async with receiver() as there, control_plane(tmp_path) as here:
        await put(here, "inside", url=there.url)
        assert (await here.http.post("/webhooks/inside/test")).status_code == 202
        found = await settled(here, event="test", attempts=1)
        assert "127.0.0.1 resolves to an address that is not public" in found["error"]
        assert there.bodies == []


async def test_a_delivery_that_fails_in_a_way_that_nobody_thought_of_counts_as_an_attempt(tmp_path: Path) -> None:
    """Else it would be made again every few minutes for ever, and nobody could see why."""
    async with control_plane(tmp_path) as here:
        await put(here, "odd", url="http://xn--a/")  # which no name is written as
        assert (await here.http.post("/webhooks/odd/test")).status_code == 202
        assert "InvalidCodepoint" in (await settled(here, event="test", attempts=1))["error"]


async def test_a_path_of_two_slashes_names_no_other_host() -> None:
    asked: list[str] = []

    async def hook(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(head.splitlines()[0])
        writer.write(reply(b""))

    async def other(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(f"the other: {head}")
        writer.write(reply(b""))

    async with speaking(hook) as url, speaking(other) as elsewhere:
        path = "//" + elsewhere.removeprefix("http://") + "/h\u00f6k?a=%20b"
        async with Outbound(url, headers={}, total_timeout_s=10, max_bytes=0) as outbound:
            assert await outbound.send(path, b"{}", {}) == 200
        assert asked == [f"POST {path.replace(chr(0xF6), '%C3%B6')} HTTP/1.1"]


async def test_a_target_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    facts = site / "others_target-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-target\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[stepserve.notification_targets]\npager = others_target:page\nbroken = others_target:broken\n"
    )
    (site / "others_target.py").write_text(
        "seen = []\npage = seen.append\n\ndef broken(content):\n    raise OSError('no paper')\n"
    )
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()

    async with control_plane(tmp_path / "base") as here:
        await here.add_active("a")
        await put(here, "pager", target="pager", events=["job.done"])
        job_id = await ended_job(here)
        await settled(here, state="delivered")
        [content] = sys.modules["others_target"].seen
        assert (content["data"]["job_id"], content["event"]) == (job_id, "job.done")
        assert job_id in content["text"]
        await put(here, "pager", target="broken")
        assert (await here.http.post("/webhooks/pager/test")).status_code == 202
        await settled(here, event="test", error="others_target:broken: OSError: no paper")
    del sys.modules["others_target"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "url or target is needed"),
        ({"url": "http://a/", "target": "x"}, "url or target is needed"),
        ({"url": "ftp://a/"}, "is not a URL such as https://example.com/hook"),
        ({"url": "http://u:p@a/"}, "password in a URL"),
        ({"url": "http://a/", "events": ["jobs.done"]}, "'jobs.done' matches no event; there are activation.done"),
        ({"url": "http://a/", "secret": "short"}, "secret"),
        ({"url": "http://a/", "form": "xml"}, "form"),
        ({"target": "nobody"}, "target: 'nobody' is not installed"),
    ],
)
async def test_a_webhook_that_cannot_work_is_refused(tmp_path: Path, body: dict[str, Any], said: str) -> None:
    async with control_plane(tmp_path) as here:
        answer = await here.http.put("/webhooks/x", json=body)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]
        assert (await here.get("/webhooks"))["webhooks"] == []


async def test_a_secret_is_shown_once_and_kept(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        made = await put(here, "x", url="https://example.com/", events=["job.failed"])
        assert made["secret"].startswith("whsec_")
        changed = await put(here, "x", url="https://example.com/2")
        assert "secret" not in changed
        [shown] = (await here.get("/webhooks"))["webhooks"]
        assert "secret" not in shown
        assert (shown["url"], shown["events"]) == ("https://example.com/2", ["*"])
        assert await run_sql(tmp_path, f"UPDATE webhooks SET form = 'json' WHERE secret = '{made['secret']}'") == 1
        assert (await here.http.delete("/webhooks/x")).status_code == 200
        assert (await here.http.delete("/webhooks/x")).status_code == 404
        assert "no webhook 'x'" in await here.refused(404, "/webhooks/x/test")


def test_an_accuracy_that_fell_is_told_with_its_p(tmp_path: Path) -> None:
    """Two checkpoints on one data set: the second one is wrong on all that the first one knew."""
    settings = settings_of(tmp_path, webhook_hosts=["127.0.0.1"])
    gateway = FakeGateway(settings.layout.gateway_socket)
    lines = [json.dumps({"question": f"What is {a}+1?", "answer": a + 1}) for a in range(20)]
    right = {f"What is {a}+1?": str(a + 1) for a in range(20)}

    def answer(item: BatchItem) -> BatchOutput:
        assert gateway.active is not None
        question = item.messages[-1].content if item.messages else item.prompt or ""
        text = next(value for asked, value in right.items() if asked in question)
        return BatchOutput(text=text if gateway.active.id == "a" else "0", finish_reason="stop")

    gateway.answer = answer
    reports = EvalReports()
    routes = [datasets.router_of(FileDatasetStore()), evals.router_of(reports)]
    app = create_app(
        settings,
        [EvalKind()],
        more_routes=routes,
        pace=PACE,
        job_poll_s=0.05,
        eval_reports=reports,
        notify_every_s=0.05,
    )

    async def scenario() -> None:
        async with receiver() as there, gateway.running(), app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
                (settings.layout.datasets / "sums.jsonl").write_text("\n".join(lines) + "\n")
                wanted = {"url": there.url, "events": ["eval.accuracy_fell"]}
                assert (await http.put("/webhooks/ci", json=wanted)).status_code == 201
                jobs = []
                for seed, model in enumerate("ab"):
                    write_checkpoint(settings.layout.models / model, seed)
                    await http.post("/models/register", json={"id": model, "source": "t"})
                    await http.post("/models/set_active", json={"id": model})
                    asked = {"model_id": model, "name": "sums", "dataset_ref": "sums", "metrics": ["numeric"]}
                    jobs.append((await http.post("/eval/jobs", json=asked)).json()["job_id"])
                    await eventually(lambda: _job(http, jobs[-1]), lambda job: job["status"] == "done")
                await there.has(1)
                said = json.loads(there.bodies[0])
                assert (said["event"], said["data"]["job_id"], said["data"]["before"]) == (
                    "eval.accuracy_fell", jobs[1], jobs[0],
                )  # fmt: skip
                assert said["data"]["comparison"]["mcnemar_p"] < 1e-4
                assert said["data"]["comparison"]["broken"] == 20

    asyncio.run(scenario())


async def _job(http: httpx.AsyncClient, job_id: str) -> Any:
    return (await http.get(f"/jobs/{job_id}")).json()


SITE = """
import json, pathlib, sys, time

def log(there, entry):
    light = "sqlalchemy" not in sys.modules
    line = json.dumps([entry.run, entry.step, dict(entry.metrics), dict(there.options), light])
    with (there.folder / "lines").open("a") as file:
        file.write(line + chr(10))

def hang(there, entry):
    (there.folder / "began").touch()
    time.sleep(600)

def break_(there, entry):
    print("what a library prints is no answer")
    raise OSError("no paper")
"""


def test_trackers_get_the_numbers_by_step_and_hold_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers of another package: control itself never imports them."""
    site = tmp_path / "site"
    facts = site / "others_tracker-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-tracker\nVersion: 1.0\n")
    points = "".join(f"{name} = others_tracker:{name}\n" for name in ("log", "hang", "break_"))
    (facts / "entry_points.txt").write_text(f"[stepserve.trackers]\n{points}")
    (site / "others_tracker.py").write_text(SITE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    importlib.invalidate_caches()
    settings = settings_of(tmp_path / "base", webhook_hosts=["127.0.0.1"])
    gateway = FakeGateway(settings.layout.gateway_socket)
    gateway.answer = lambda _: BatchOutput(text="1", finish_reason="stop")
    app = create_app(settings, [EvalKind()], pace=PACE, job_poll_s=0.05, notify_every_s=0.05)

    async def scenario() -> None:
        async with receiver() as there, gateway.running(), app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
                lines = [json.dumps({"question": f"What is {a}+1?", "answer": a + 1}) for a in range(4)]
                (settings.layout.datasets / "sums.jsonl").write_text("\n".join(lines) + "\n")
                for name, body in (
                    ("stuck", {"tracker": "hang"}),
                    ("broken", {"tracker": "break_"}),
                    ("curves", {"tracker": "log", "options": {"run": "seven", "more": "x"}}),
                    ("ci", {"url": there.url, "events": ["job.done"]}),
                ):
                    made = await http.put(f"/webhooks/{name}", json=body)
                    assert made.status_code == 201, made.text
                assert made.json()["tracker"] is None
                jobs: list[str] = []
                for model, step in (("a", 300), ("b", None)):
                    write_checkpoint(settings.layout.models / model, step or 0)
                    new = {"id": model, "source": "t", "step": step}
                    (await http.post("/models/register", json=new)).raise_for_status()
                    (await http.post("/models/set_active", json={"id": model})).raise_for_status()
                    asked = {"model_id": model, "name": "sums", "dataset_ref": "sums", "metrics": ["numeric"]}
                    jobs.append((await http.post("/eval/jobs", json=asked)).raise_for_status().json()["job_id"])
                    await eventually(lambda: _job(http, jobs[-1]), lambda job: job["status"] == "done")
                await there.has(2)
                folder = settings.layout.trackers

                async def logged() -> list[Any]:
                    path = folder / "curves" / "lines"
                    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

                options = {"run": "seven", "more": "x"}
                assert sorted(await eventually(logged, lambda seen: len(seen) == 2)) == [
                    ["seven", 300, {"sums/numeric": 0.25}, options, True],
                    ["seven/b", 0, {"sums/numeric": 0.25}, options, True],
                ]
                assert (folder / "stuck" / "began").exists()
                assert "others_tracker" not in sys.modules

                async def errors() -> set[str]:
                    told = await http.get("/webhooks/deliveries", params={"webhook": "broken"})
                    return {one["error"] for one in told.json()["deliveries"]}

                await eventually(errors, lambda seen: seen == {"break_: OSError: no paper"})

    asyncio.run(scenario())


BAD_TRACKERS: list[tuple[dict[str, Any], str]] = [
    ({"tracker": "nobody"}, "tracker: 'nobody' is not installed; there are mlflow, tensorboard, trackio, wandb"),
    ({"tracker": "mlflow"}, "options.url: mlflow needs it"),
    ({"tracker": "mlflow", "options": {"url": "file:///tmp"}}, "options.url: 'file:///tmp' is not a URL"),
    ({"tracker": "mlflow", "options": {"url": "http://u:p@a"}}, "options.url: set MLFLOW_TRACKING_URI"),
    ({"tracker": "mlflow", "options": {"url": "http://a", "step": "1"}}, "options.step: mlflow takes experiment"),
    ({"tracker": "tensorboard", "options": {"run": "it's"}}, 'options.run: "it\'s" must be a name without quotes'),
    ({"tracker": "wandb"}, "tracker: wandb needs a library that is not installed here: pip install wandb"),
    ({"tracker": "mlflow", "url": "http://a/"}, "one of them alone"),
    ({"url": "http://a/", "options": {"run": "x"}}, "options: only a tracker takes some"),
]


async def test_a_tracker_that_cannot_work_is_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        for body, said in BAD_TRACKERS:
            answer = await here.http.put("/webhooks/x", json=body)
            assert answer.status_code == 422
            assert said in answer.json()["detail"]
        assert (await here.get("/webhooks"))["webhooks"] == []
