"""The command line against a real control on a real port."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn

from control.activation.activator import Activator
from control.activation.wishes import SwitchWish
from control.app import create_app
from control.models.registration import RegisterRequest
from control.models.registry import Registry
from control.routes import evals
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.canary import CanaryJudging
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

Ended = tuple[int, str, str]


async def stepserve(*arguments: str, url: str) -> Ended:
    """Exit code, stdout, stderr."""
    host, port = url.removeprefix("http://").split(":")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from stepserve.client.cli import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"INFERENCE_HOST": host, "INFERENCE_PORT": port, "COLUMNS": "200"},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def served(base: Path) -> AsyncIterator[tuple[str, FakeGateway]]:
    """Control with evals, its model active, on TCP; the URL and its gateway."""
    settings = settings_of(base)
    gateway = FakeGateway(settings.layout.gateway_socket)
    routes = [evals.router_of(EvalReports())]
    place_database(settings)
    app = create_app(settings, [EvalKind()], more_routes=routes, pace=PACE, job_poll_s=0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=1))
    async with gateway.running():
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started)
        write_checkpoint(base / "models" / "a")
        await app.state.services[Registry].register(RegisterRequest(id="a", source="t"))
        await app.state.services[Activator].set_active("a", SwitchWish())
        (base / "datasets" / "d.jsonl").write_text(
            '{"question": "6*7?", "answer": "42"}\n{"question": "1?", "answer": "1"}\n'
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", gateway
        finally:
            server.should_exit = True
            await task
            listener.close()


async def test_an_eval_from_the_command_line(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, _):
        code, out, err = await stepserve("eval", "run", "d", "--json", url=url)
        assert (code, json.loads(out)["result"]["accuracy"]) == (0, 0.5), err
        job_id = json.loads(out)["id"]
        assert f"{job_id} done" in err
        code, out, _ = await stepserve("eval", "show", job_id, url=url)
        assert code == 0
        assert "0.5000" in out
        code, out, _ = await stepserve("eval", "run", "d", "--dedupe", "--no-wait", url=url)
        assert (code, out) == (0, f"{job_id}\n")
        code, out, _ = await stepserve("jobs", "list", "--status", "done", url=url)
        assert code == 0
        assert job_id in out
        assert "2/2" in out
        code, out, _ = await stepserve("jobs", "list", "--json", url=url)
        assert [job["id"] for job in json.loads(out)] == [job_id]
        assert (await stepserve("jobs", "watch", job_id, url=url))[0] == 0


async def test_cancelling_and_watching_what_fails(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, gateway):
        gateway.batch_takes_s = 60.0
        _, out, _ = await stepserve("eval", "run", "d", "--no-wait", "--json", url=url)
        job_id = json.loads(out)["job_id"]
        assert await stepserve("jobs", "cancel", job_id, url=url) == (0, f"{job_id} is cancelled.\n", "")
        code, _, err = await stepserve("jobs", "watch", job_id, url=url)
        assert code == 1
        assert err.endswith(f"{job_id} cancelled\n")
        code, _, err = await stepserve("jobs", "cancel", job_id, url=url)
        assert (code, err) == (2, f"Refused: {job_id} is over already: it is cancelled.\n")
        gateway.batch_takes_s = 0.0
        assert (await stepserve("jobs", "retry", job_id, url=url))[0] == 0
        assert (await stepserve("jobs", "watch", job_id, url=url))[0] == 0


async def test_an_eval_without_an_answer_is_no_success(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, gateway):
        gateway.answer = lambda _: BatchOutput(error="no chat template")
        code, out, err = await stepserve("eval", "run", "d", url=url)
        assert code == 1
        assert "status" in out
        assert "failed" in out
        assert "accuracy" not in out
        assert "2 of the 2 samples asked so far have no result" in err
        assert "no chat template" in err


async def test_what_cannot_be_is_one_sentence_and_an_exit_code(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, _):
        code, _, err = await stepserve("eval", "run", "ghost", url=url)
        assert code == 2
        assert err.startswith("Refused: dataset_ref: ")
        assert (await stepserve("jobs", "watch", "ghost", url=url))[::2] == (
            2,
            "Refused: there is no job 'ghost'.\n",
        )
    code, _, err = await stepserve("jobs", "list", url=url)
    assert code == 3
    assert err.startswith(f"No server can be reached at {url} (")


async def test_a_chat_template_from_a_file_here(tmp_path: Path) -> None:
    """The server has no such file: its text is sent. Without one the command warns."""
    template = tmp_path / "here.jinja"
    template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    async with served(tmp_path / "base") as (url, _):
        for seed, name in enumerate(("bare", "chatting"), 1):
            write_checkpoint(tmp_path / "base" / "models" / name, seed)
        code, out, err = await stepserve("models", "register", "bare", url=url)
        assert (code, "Warning: bare has no chat template" in out) == (0, True), err
        options = ("--chat-template", str(template))
        code, out, err = await stepserve("models", "register", "chatting", *options, url=url)
        assert (code, "Warning" in out) == (0, False), err
        code, out, err = await stepserve("models", "list", "--json", url=url)
        shown = {model["id"]: model["chat_template"] for model in json.loads(out)}
        assert (shown["bare"], shown["chatting"]) == (None, "registered")
        code, _, err = await stepserve("models", "pull", "acme/x", "--chat-template", "chatmll", url=url)
        assert code != 0
        assert "no chat template is called 'chatmll'" in err


async def test_a_promotion_ends_with_a_code_for_scripts(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, gateway):
        (tmp_path / "datasets" / "sums.jsonl").write_text(
            "".join(json.dumps({"question": f"{number}?", "answer": "yes"}) + "\n" for number in range(60))
        )
        (tmp_path / "suite.json").write_text('[{"dataset_ref": "sums", "metric": "accuracy"}]')
        gateway.answers = {name: _saying(said) for name, said in (("a", "no"), ("better", "yes"), ("same", "no"))}
        gateway.has_room_for = {*gateway.answers}
        async with httpx.AsyncClient(base_url=url, timeout=240) as http:
            for number, name in enumerate(("better", "same")):
                write_checkpoint(tmp_path / "models" / name, number + 1)
                (await http.post("/models/register", json={"id": name, "source": "t"})).raise_for_status()
        better = ("promote", "better", "--suite", "sums:accuracy", "--activate")
        gateway.canary_states = ["undecided"]
        code, out, _ = await stepserve(*better, "--canary", "share=0.1", "--canary", "min_requests=30", url=url)
        assert (code, out.splitlines()[0]) == (6, "Undecided.")
        assert "- the canary was ended after 2 s (undecided: it is undecided)" in out
        assert gateway.canaries[-1].min_requests == 30
        judge = ("model=same", "max_drop=0.2", "rubric=It is short.", "rubric=It is polite.")
        options = [part for one in judge for part in ("--canary", f"judge.{one}")]
        code, out, err = await stepserve(*better, *options, url=url)
        assert code == 6, err
        assert "pairs of answers\t0" in out
        assert gateway.canaries[-1].judge == CanaryJudging(share=1, max_drop=0.2, min_answers=20)
        async with httpx.AsyncClient(base_url=url, timeout=240) as http:
            asked = (await http.get("/jobs?type=promotion")).json()["jobs"][0]["config"]["canary"]["judge"]
        assert (asked["model"], asked["rubric"]) == ("same", ["It is short.", "It is polite."])
        code, out, err = await stepserve(*better, url=url)
        assert code == 0, err
        assert out.startswith("Promoted.\n- accuracy on sums.jsonl is shown to be better: +1.000")
        assert "Switch: activated." in out
        suite = ("--suite", str(tmp_path / "suite.json"))
        junit = tmp_path / "junit.xml"
        code, out, _ = await stepserve("promote", "same", *suite, "--junit", str(junit), url=url)
        assert (code, out.splitlines()[0]) == (5, "Refused.")
        assert '<failure message="refused">accuracy on sums.jsonl is shown to be worse' in junit.read_text()
        assert "\tyes\tyes\tno" in out
        code, out, _ = await stepserve("promote", "a", "--baseline", "same", *suite, "--json", url=url)
        job = json.loads(out)
        assert (code, job["decision"]) == (6, "undecided")
        code, out, _ = await stepserve("promote", "report", job["job_id"], url=url)
        assert (code, out.splitlines()[0]) == (0, "# Promotion of a over same")
        page = tmp_path / "decision.html"
        code, out, _ = await stepserve("promote", "report", job["job_id"], "--out", str(page), url=url)
        assert (code, out.strip(), page.read_text()[:15]) == (0, str(page), "<!doctype html>")
        code, _, err = await stepserve("promote", "report", job["job_id"], "--out", str(tmp_path), url=url)
        assert (code, "cannot be written: Is a directory" in err) == (2, True)
        folder = tmp_path / "runs" / "promotion" / job["job_id"]
        code, out, _ = await stepserve("promote", "--replay", str(folder), "--json", url=url)
        assert (code, json.loads(out)["differs"], json.loads(out)["decision"]) == (6, [], "undecided")
        (folder / "0" / "candidate.jsonl").write_bytes(b"")
        code, _, err = await stepserve("promote", "--replay", str(folder), url=url)
        assert code == 1
        assert "0/candidate.jsonl is not what the decision was made of" in err
        code, _, err = await stepserve("promote", "--replay", str(tmp_path), url=url)
        assert (code, err) == (2, f"{tmp_path} has no decision.json: the promotion has not been decided.\n")


async def test_two_models_are_compared_with_what_changed(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, gateway):
        lines = [json.dumps({"question": f"{number}?", "answer": "yes"}) for number in range(40)]
        (tmp_path / "datasets" / "sums.jsonl").write_text("\n".join(lines))
        gateway.answers = {"a": _saying("no"), "late": _saying("yes")}
        gateway.has_room_for = {"late"}
        write_checkpoint(tmp_path / "models" / "late", 1)
        code, _, err = await stepserve("models", "register", "late", "--step", "1500", url=url)
        assert code == 0, err
        jobs = [
            json.loads((await stepserve("eval", "run", "sums", "--model", model, "--json", url=url))[1])["id"]
            for model in ("a", "late")
        ]
        sentence = "late is better than a: +100.0 points (100.0 to 100.0), 40 fixed, 0 broken, p < 0.001."
        code, out, err = await stepserve("eval", "compare", *jobs, "--show", "2", url=url)
        assert (code, out.splitlines()[0]) == (0, sentence), err
        assert out.splitlines()[-2:] == ["fixed\t0?\tyes\tno\tyes", "fixed\t1?\tyes\tno\tyes"]
        code, out, err = await stepserve("models", "diff", "a", "late", url=url)
        assert code == 0, err
        assert "step\t\t1500" in out.splitlines()
        assert out.splitlines()[-1] == f"sums.jsonl: {sentence}"
        code, out, _ = await stepserve("models", "diff", "a", "a", "--json", url=url)
        assert json.loads(out)["differs"] == {}
        code, _, err = await stepserve("models", "diff", "a", "ghost", url=url)
        assert (code, "ghost" in err) == (2, True)


async def test_top_in_a_pipe_is_one_look_as_lines(tmp_path: Path) -> None:
    async with served(tmp_path) as (url, gateway):
        gateway.batch_takes_s = 60.0
        _, job, _ = await stepserve("eval", "run", "d", "--no-wait", url=url)
        async with httpx.AsyncClient(base_url=url, timeout=240) as http:

            async def look() -> str:
                return str((await http.get(f"/jobs/{job.strip()}")).json()["status"])

            await eventually(look, lambda status: status == "running")
            await eventually(lambda: http.get("/history"), lambda told: told.json()["samples"])
            gateway.served = 30
            await eventually(
                lambda: http.get("/history?window_s=10&samples=1"),
                lambda told: told.json()["samples"][-1]["requests_per_s"],
            )
        code, out, err = await stepserve("top", url=url)
        assert code == 0, err
        lines = out.splitlines()
        assert lines[lines.index("Jobs: 1 running, 0 waiting") + 2].startswith(f"{job.strip()}\ta\t")
        traffic = dict(zip(*(line.split("\t") for line in lines[lines.index("Traffic") + 1 :][:2]), strict=True))
        assert (traffic["running"], traffic["waiting"]) == ("1", "2")
        assert float(traffic["requests/s"]) > 0
        assert traffic["tokens/s"].startswith("a ")
        await stepserve("jobs", "cancel", job.strip(), url=url)


def _saying(text: str) -> Callable[[BatchItem], BatchOutput]:
    return lambda _: BatchOutput(text=text, finish_reason="stop")
