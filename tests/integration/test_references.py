"""References from the registration to the gateway."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.errors import ReferenceFailed
from stepserve.contract import Reference
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.long_lived import LongLived, long_lived
from tests.unit.control.checkpoint_files import write_checkpoint

DEMO = Path(__file__).parents[2] / "demo" / "checkpoints"
PROBE = {"prompt_token_ids": [[1, 2, 3]], "logprobs": [[None, -1.0, -2.0]]}
COMPUTED = Reference(kind="computed", prompt_token_ids=[[1, 2]], logprobs=[[-2.0]])
ANY_SIZE = 1_000_000


async def test_a_trainers_probe_is_kept_and_handed_over(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        body = await here.post("/models/register", id="a", source="t", probe=PROBE)
    file = here.layout.references / f"{body['digest'].removeprefix('sha256:')}.json"
    assert json.loads(file.read_text()) == {
        "kind": "reference", "prompt_token_ids": [[1, 2, 3]], "logprobs": [[-1.0, -2.0]],
    }  # fmt: skip
    async with control_plane(tmp_path) as here:
        again = {"prompts": ["x"], "logprobs": [[-0.5]]}
        await here.post("/models/register", id="a", source="t", probe=again)
        await here.post("/models/register", id="a", source="t")
        await here.post("/models/set_active", id="a")
        reference = here.gateway.asked[0].reference
        assert reference is not None
        assert (reference.kind, reference.prompts, reference.logprobs) == ("reference", ["x"], [[-0.5]])


async def test_the_restore_after_a_restart_has_the_reference(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        await here.post("/models/register", id="a", source="t", probe=PROBE, activate=True)
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running(), control(tmp_path, gateway):
        await gateway.switch_asked.wait()
        assert gateway.asked[0].reference is not None


async def test_a_removed_models_reference_goes_with_the_last_of_its_content(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        for model_id in ("a", "b"):
            write_checkpoint(here.layout.models / model_id)
            await here.post("/models/register", id=model_id, source="t", probe=PROBE)
        for model_id, left in (("a", 1), ("b", 0)):
            assert (await here.http.delete(f"/models/{model_id}")).status_code == 200
            assert len(await asyncio.to_thread(lambda: list(here.layout.references.iterdir()))) == left


@pytest.fixture(scope="module")
def with_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    with long_lived(control_plane(tmp_path_factory.mktemp("base"))) as opened:
        shutil.copytree(DEMO / "step-0300", opened.here.layout.models / "a")
        yield opened


@pytest.mark.parametrize(
    ("probe", "named"),
    [
        ({"prompts": ["a"]}, "probe.logprobs: is missing"),
        ({"prompts": ["a"], "logprobs": [[1.0]]}, "probe.logprobs.0.0: "),
        ({"prompt_token_ids": [[1, 2, 3]], "logprobs": [[-1.0]]}, "probe: logprobs.0: 1 numbers"),
        ({"prompt_token_ids": [[1, 700]], "logprobs": [[-1.0]]}, "probe.prompt_token_ids.0: 700 is not a token"),
        ({"prompt_token_ids": [[1] * 512], "logprobs": [[-1.0] * 511]}, "probe.prompt_token_ids.0: 512 tokens"),
        ({"prompts": ["a"], "logprobs": [[-1.0]], "seed": 1}, "probe.seed: unknown field"),
    ],
)
def test_a_probe_that_makes_no_sense_registers_nothing(
    with_demo: LongLived[ControlPlane], probe: dict[str, Any], named: str
) -> None:
    async def run() -> None:
        assert named in await with_demo.here.refused(422, "/models/register", id="a", source="t", probe=probe)
        assert await with_demo.here.get("/models") == {"models": []}

    with_demo.run(run())


async def test_a_switch_waits_for_the_reference_that_is_being_computed(tmp_path: Path) -> None:
    begun, may_go = asyncio.Event(), asyncio.Event()

    async def compute(path: Path, digest: str) -> Reference:
        begun.set()
        await may_go.wait()
        return COMPUTED

    async with control_plane(tmp_path, compute, proof_compute_max_bytes=ANY_SIZE) as here:
        await here.add_model("a")
        await begun.wait()
        switch = asyncio.create_task(here.post("/models/set_active", id="a"))
        await eventually(lambda: here.get("/models/activations"), lambda body: bool(body["activations"]))
        assert here.gateway.asked == []
        may_go.set()
        await switch
        assert here.gateway.asked[0].reference == COMPUTED


async def test_a_switch_does_not_wait_longer_than_told_nor_for_one_that_failed(tmp_path: Path) -> None:
    calls: list[str] = []

    async def hangs(path: Path, digest: str) -> Reference:
        calls.append(digest)
        await asyncio.Event().wait()
        raise AssertionError

    async def fails(path: Path, digest: str) -> Reference:
        calls.append(digest)
        raise ReferenceFailed("no")

    for compute in (hangs, fails):
        calls.clear()
        base = tmp_path / compute.__name__
        async with control_plane(base, compute, proof_compute_max_bytes=ANY_SIZE, proof_wait_s=0.05) as here:
            await here.add_active("a")
            assert [request.reference for request in here.gateway.asked] == [None]
            assert len(calls) == 1


async def test_the_wait_for_a_reference_is_shown_and_counted(tmp_path: Path) -> None:
    """Once a switch that took 27 s said 102 ms."""

    async def compute(path: Path, digest: str) -> Reference:
        await may_end.wait()
        return COMPUTED

    may_end = asyncio.Event()
    async with control_plane(tmp_path, compute, proof_compute_max_bytes=ANY_SIZE) as here:
        await here.add_model("a")
        here.gateway.may_switch.clear()
        switching = asyncio.create_task(here.post("/models/set_active", id="a"))

        async def newest() -> dict[str, Any]:
            rows: list[dict[str, Any]] = (await here.get("/models/activations"))["activations"]
            return rows[0] if rows else {"phase": None}

        waiting = await eventually(newest, lambda row: row["phase"] == "waiting_for_reference")
        later = await eventually(newest, lambda row: row["reference_wait_ms"] > waiting["reference_wait_ms"])
        assert (later["status"], later["total_ms"]) == ("running", None)
        may_end.set()
        switch = await eventually(newest, lambda row: row["phase"] == "switching")
        assert switch["reference_wait_ms"] >= later["reference_wait_ms"]
        here.gateway.may_switch.set()
        answer = await switching
        assert answer["total_ms"] >= answer["reference_wait_ms"] == switch["reference_wait_ms"]
        row = await newest()
        assert (row["phase"], row["total_ms"], row["reference_wait_ms"]) == (
            None, answer["total_ms"], answer["reference_wait_ms"],
        )  # fmt: skip


async def test_the_active_model_gets_its_reference_at_the_next_start(tmp_path: Path) -> None:
    async def compute(path: Path, digest: str) -> Reference:
        computed.set()
        return COMPUTED

    computed = asyncio.Event()
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
    async with control_plane(tmp_path, compute, proof_compute_max_bytes=ANY_SIZE):
        async with asyncio.timeout(240):
            await computed.wait()


async def test_the_real_program(tmp_path: Path) -> None:
    async with control_plane(tmp_path, proof_compute_max_bytes=2_000_000, proof_wait_s=240.0) as here:
        await asyncio.to_thread(shutil.copytree, DEMO / "step-1500", here.layout.models / "a")
        await here.post("/models/register", id="a", source="t", activate=True)
        reference = here.gateway.asked[0].reference
        assert reference is not None
        assert reference.kind == "computed"
        assert reference.prompt_token_ids is not None
        assert len(reference.prompt_token_ids) == len(reference.logprobs) == 6
        for token_ids, row in zip(reference.prompt_token_ids, reference.logprobs, strict=True):
            assert 26 <= len(token_ids) <= 88  # the last 24 are what the model says itself
            assert len(row) == len(token_ids) - 1
            assert all(number <= 0 for number in row)
