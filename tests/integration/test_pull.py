"""POST /pull against a hub on loopback, with the real huggingface_hub."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from stepserve.settings import EngineSettings
from tests.eventually import eventually
from tests.integration.adapter_files import write_base
from tests.integration.control_plane import ControlPlane, control_plane
from tests.integration.fake_hub import FakeHub, Trick
from tests.integration.long_lived import LongLived, long_lived
from tests.integration.pulls import CDN, LARGE_BYTES, WEIGHTS, add, add_adapter, ended, pull, pulling, visible
from tests.unit.control.checkpoint_files import write_checkpoint

TOKEN = "hf_a_secret_that_nobody_may_read"


async def test_a_pull_registers_and_activates(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = add(hub, "acme/tiny", tmp_path / "source")
    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        accepted = await pull(here, "acme/tiny", quantize="auto", init=True, tags="a,b")
        assert accepted["status"] == "accepted"
        job = await ended(here, accepted["job_id"])
        assert job["status"] == "done", job["error"]
        assert job["local_path"] == str(here.layout.models / "acme--tiny")
        assert (job["preferred_quantized"], job["finished_at"] is not None) == (False, True)
        assert job["progress"]["done"] == job["progress"]["total"] > LARGE_BYTES
        (model,) = (await here.get("/models"))["models"]
        assert (model["id"], model["is_active"], model["tags"]) == ("acme--tiny", True, ["a", "b"])
        assert (model["source"], model["backend"]) == (f"hub:acme/tiny@{'c' * 12}", "vllm")
        there = {path.name for path in (here.layout.models / "acme--tiny").iterdir()}
        assert there == {"config.json", "tokenizer.json", WEIGHTS}, "no pickle, no code, nothing of the way here"
        assert (here.layout.models / "acme--tiny" / WEIGHTS).read_bytes() == repository.files[WEIGHTS]
        again = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert (again["status"], again["result"]["transferred_bytes"]) == ("done", 0)


REFUSALS: list[tuple[str, str]] = [
    ("acme/nothing", "acme/nothing is not on the hub, or is private"),
    ("acme/private", "INFERENCE_HF_TOKEN"),
    ("acme/gated", "acme/gated is gated"),
    ("acme/pickle", "pytorch_model.bin is a pickle"),
    ("acme/code", "the repository's own Python code"),
    ("acme/bnb", "quantised by bitsandbytes"),
    ("acme/wrong", "model.safetensors is not what the hub lists: its hash differs"),
    ("acme/short", "model.safetensors: Consistency check failed"),
    ("acme/long", "model.safetensors: the hub sends more than"),
    ("acme/huge", "GB are still to come"),
    ("acme/torn", "model.safetensors is torn"),
    ("acme/empty", "holds no config.json"),
    ("acme/adapter", "base_model: the adapter's base is called acme/base"),
]


async def test_what_cannot_be_pulled_is_said_and_nothing_is_seen_of_it(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/private", tmp_path / "a").token = TOKEN
    gated = add(hub, "acme/gated", tmp_path / "b")
    gated.token, gated.gated = TOKEN, True
    del add(hub, "acme/pickle", tmp_path / "c").files[WEIGHTS]
    add(hub, "acme/code", tmp_path / "d", auto_map={"AutoConfig": "modeling.X"}, model_type="own")
    add(hub, "acme/bnb", tmp_path / "e", quantization_config={"quant_method": "bitsandbytes"})
    wrong = add(hub, "acme/wrong", tmp_path / "f")
    wrong.served[WEIGHTS] = wrong.files[WEIGHTS][::-1]
    add(hub, "acme/short", tmp_path / "g").tricks[WEIGHTS] = Trick("short", 80_000)
    long = add(hub, "acme/long", tmp_path / "h")
    long.served[WEIGHTS] = long.files[WEIGHTS] * 2
    add(hub, "acme/huge", tmp_path / "i").listed[WEIGHTS] = 10**15
    torn = add(hub, "acme/torn", tmp_path / "j")
    torn.files[WEIGHTS] = torn.files[WEIGHTS][:-100]
    add(hub, "acme/empty", tmp_path / "k").files.clear()
    add_adapter(hub, "acme/adapter", tmp_path / "l")
    async with pulling(hub, tmp_path / "base", monkeypatch, max_concurrent_pulls=4) as here:
        jobs = {name: (await pull(here, name, quantize="no"))["job_id"] for name, _ in REFUSALS}
        for name, words in REFUSALS:
            job = await ended(here, jobs[name])
            assert job["status"] == "failed", name
            assert words in job["error"], name
            assert (job["local_path"], job["preferred_quantized"]) == (None, None)
        assert visible(here) == []
        assert await here.get("/models") == {"models": []}


async def test_a_hub_that_stalls_and_breaks_off_once_is_gone_on_with(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalls = add(hub, "acme/stalls", tmp_path / "a")
    stalls.tricks[WEIGHTS] = Trick("stall", 1_000_000, times=1)
    breaks = add(hub, "acme/breaks", tmp_path / "b", seed=1)
    breaks.tricks[WEIGHTS] = Trick("break", 2_000_000, times=1)
    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        for job_id in [(await pull(here, name))["job_id"] for name in hub.repositories]:
            job = await ended(here, job_id)
            assert (job["status"], job["attempt"]) == ("done", 1), job["error"]
        for name, repository in hub.repositories.items():
            asked = [each for each in hub.fetched(WEIGHTS) if name in each.path]
            assert [each.range_ is None for each in asked] == [True, False]
            assert sum(sum(each.sent) for each in asked) <= len(repository.files[WEIGHTS]) + 600_000


async def test_a_hub_that_is_away_is_waited_for(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, "acme/tiny", tmp_path / "source")
    async with hub.running():
        pass
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    async with control_plane(tmp_path / "base", hub_timeout_s=1, hub_hosts=[CDN]) as here:
        job_id = (await pull(here, "acme/tiny"))["job_id"]
        rests = await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["waiting_for"])
        assert "the connection to the hub fails" in rests["attempts"][0]["error"]
        async with hub.running():
            assert (await ended(here, job_id))["status"] == "done"


async def test_the_token_opens_the_repository_and_is_seen_nowhere(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/private", tmp_path / "source").token = TOKEN
    base = tmp_path / "base"
    async with pulling(hub, base, monkeypatch, hf_token=SecretStr(TOKEN)) as here:
        job = await ended(here, (await pull(here, "acme/private"))["job_id"])
        assert job["status"] == "done", job["error"]
        assert TOKEN not in json.dumps(job)
        assert all(asked.authorization is None for asked in hub.fetched(WEIGHTS)), "a CDN is not the hub"
    written = [file for file in base.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert written == []


async def test_killed_at_any_byte_it_goes_on_there(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = add(hub, "acme/tiny", tmp_path / "source")
    base = tmp_path / "base"

    def there_bytes() -> int:
        return sum(file.stat().st_size for file in base.glob(f"models/.pulls/*/files/{WEIGHTS}.partial"))

    async def live_until(bytes_there: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.pull_control", str(base)
        )
        while there_bytes() < bytes_there:
            assert process.returncode is None
            await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()

    async with pulling(hub, base, monkeypatch, max_concurrent_by_type={"pull": 0}) as here:
        job_id = (await pull(here, "acme/tiny"))["job_id"]
        hub.pause_s = 0.02
    async with hub.running():
        for bytes_there in (1_000_000, 2_500_000):
            await live_until(bytes_there)
        assert visible(here) == []
    hub.pause_s = 0.0
    async with pulling(hub, base, monkeypatch) as here:
        job = await ended(here, job_id)
        assert job["status"] == "done", job["error"]
        assert (here.layout.models / "acme--tiny" / WEIGHTS).read_bytes() == repository.files[WEIGHTS]
        begins = [int((each.range_ or "=0-").split("=")[1].rstrip("-")) for each in hub.fetched(WEIGHTS)]
        assert begins[0] == 0
        assert begins == sorted(begins)
        assert begins[-1] >= 2_500_000


async def test_cancelled_and_tried_again_it_goes_on(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = add(hub, "acme/tiny", tmp_path / "source")
    repository.tricks[WEIGHTS] = Trick("stall", 2_000_000, times=1)
    async with pulling(hub, tmp_path / "base", monkeypatch, hub_timeout_s=60) as here:
        job_id = (await pull(here, "acme/tiny"))["job_id"]
        await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["progress"]["done"] > 1_500_000)
        await here.post(f"/jobs/{job_id}/cancel")
        await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["attempts"][0]["ended_at"])
        assert visible(here) == []
        await here.post(f"/jobs/{job_id}/retry")
        assert (await ended(here, job_id))["status"] == "done"
        _first, second = hub.fetched(WEIGHTS)
        assert int((second.range_ or "").removeprefix("bytes=").rstrip("-")) > 1_500_000


def test_as_many_at_once_as_allowed_beside_the_engines_jobs(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"acme/tiny{n}" for n in range(4)]
    for n, name in enumerate(names):
        add(hub, name, tmp_path / name, seed=n)
    hub.may_send.clear()

    async def run() -> None:
        async with pulling(hub, tmp_path / "base", monkeypatch, hub_timeout_s=60) as here:
            await here.add_active("a")
            here.kind.may_go.clear()
            echo = (await here.post("/echo/jobs", model_id="a"))["job_id"]
            jobs = [(await pull(here, name))["job_id"] for name in names]
            await eventually(lambda: here.get("/jobs/stats"), lambda stats: hub.at_once == 2)
            stats = await here.get("/jobs/stats")
            assert (stats["running"], stats["pending"]) == (3, 2)
            hub.may_send.set()
            for job_id in jobs:
                assert (await ended(here, job_id))["status"] == "done"
            assert (await here.get(f"/jobs/{echo}"))["status"] == "running"
            here.kind.may_go.set()
            await here.job(echo, "done")

    asyncio.run(run())


async def test_the_same_pull_twice_is_one_and_another_of_that_id_is_refused(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/tiny", tmp_path / "source").tricks[WEIGHTS] = Trick("stall", 0)
    async with pulling(hub, tmp_path / "base", monkeypatch, hub_timeout_s=60) as here:
        first = await pull(here, "acme/tiny")
        second = await pull(here, "acme/tiny")
        assert (second["job_id"], second["deduplicated"]) == (first["job_id"], True)
        assert first["job_id"] in await here.refused(409, "/pull", model="acme/tiny", quantize="q8")
        assert (await here.http.delete("/models/acme--tiny")).status_code == 404
        await here.post(f"/jobs/{first['job_id']}/cancel")


async def test_an_adapter_is_pulled_onto_its_base(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_adapter(hub, "acme/tuned", tmp_path / "source")
    async with pulling(hub, tmp_path / "base", monkeypatch, engine=EngineSettings(max_loras=1)) as here:
        write_base(here)
        await here.post("/models/register", id="base", source="t")
        job = await ended(here, (await pull(here, "acme/tuned"))["job_id"])
        assert job["status"] == "done", job["error"]
        newest = (await here.get("/models"))["models"][0]
        assert (newest["id"], newest["base_model"]) == ("acme--tuned", "base")


async def test_a_pulled_model_has_the_engine_that_was_asked_for(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/tiny", tmp_path / "source")
    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        two_ranks = {"args": {"tensor_parallel_size": 2}}
        here.gateway.refuse_engines_with = "engine.args.tensor_parallel_size: no"
        said = await here.refused(422, "/pull", model="acme/tiny", engine=two_ranks)
        assert said == "engine: args.tensor_parallel_size: no"
        here.gateway.refuse_engines_with = None
        job = await ended(here, (await pull(here, "acme/tiny", engine=two_ranks))["job_id"])
        assert job["status"] == "done", job["error"]
        assert (await here.get("/models"))["models"][0]["engine"] == two_ranks


async def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/tiny", tmp_path / "source")
    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        mine = write_checkpoint(here.layout.models / "mine", seed=5)
        before = (mine / WEIGHTS).read_bytes()
        job = await ended(here, (await pull(here, "acme/tiny", id="mine"))["job_id"])
        assert job["status"] == "failed"
        assert "is there already with other content" in job["error"]
        assert (mine / WEIGHTS).read_bytes() == before


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    with long_lived(control_plane(tmp_path_factory.mktemp("empty"))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "model: is missing"),
        ({"model": "../etc"}, "model: a repository"),
        ({"model": "a/b/c"}, "model: a repository"),
        ({"model": "a", "quantize": "q2"}, "quantize: "),
        ({"model": "a", "id": "../b"}, "id: an id is"),
        ({"model": "a", "id": "active"}, "reserved"),
        ({"model": "a", "revision": "../main"}, "revision: "),
        ({"model": "a", "shell": True}, "shell: unknown field"),
    ],
)
def test_a_request_that_makes_no_sense(empty: LongLived[ControlPlane], body: dict[str, Any], named: str) -> None:
    async def run() -> None:
        assert named in await empty.here.refused(422, "/pull", **body)
        assert (await empty.here.get("/jobs"))["jobs"] == []

    empty.run(run())
