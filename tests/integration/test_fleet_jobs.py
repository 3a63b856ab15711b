"""Jobs over a fleet: whoever serves the job's model takes part, and whoever leaves in the middle costs time alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.telemetry.nvml import Nvml
from datagen.kind import DataGenKind
from evals.kind import EvalKind
from evals.tally import TIMING_KEYS
from stepserve.contract import BatchRequest, ModelRef
from stepserve.fleet_settings import FleetSettings
from stepserve.jobs.ports import JobKind
from stepserve.settings import TelemetrySettings
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.integration.test_data_gen_kills import ROWS, mostly_adds
from tests.integration.test_fleet import states
from tests.integration.test_kills import greedy
from tests.unit.control.recorded_nvml import H200, RecordedNvml

CHUNK, WINDOW = 4, 8
SAMPLES = 60
LONG_S = 600.0  # a lease that does not end in a test


class Work:
    """What one gateway does with a job's items: clear `may_answer` and it has them until that is set."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        gateway.answer = greedy
        gateway.before_batch = self._hold

    async def _hold(self, request: BatchRequest) -> None:
        self.asked += 1
        await self.may_answer.wait()

    @property
    def answered(self) -> int:
        """Items."""
        return sum(len(request.items) for request in self.gateway.batches)

    async def has(self, requests: int) -> None:
        """Returns once it was asked so often, all told."""
        await eventually(lambda: asyncio.sleep(0, self.asked), lambda asked: asked >= requests)


@dataclass
class Fleet:
    """`leave` ends a gateway as a kill does."""

    here: ControlPlane
    base: Path
    members: dict[str, FakeMember]
    work: dict[str, Work]
    stacks: dict[str, AsyncExitStack]

    async def leave(self, name: str) -> None:
        self.work[name].gateway.cut_off()
        await self.stacks[name].aclose()

    def hold(self, *names: str) -> None:
        for name in names:
            self.work[name].may_answer.clear()

    def release(self, *names: str) -> None:
        for name in names:
            self.work[name].may_answer.set()

    @property
    def answered(self) -> dict[str, int]:
        return {name: work.answered for name, work in self.work.items()}

    async def evaluate(self, model_id: str = "a") -> str:
        lines = [json.dumps({"id": f"q{n}", "question": f"{n}?", "answer": str(n % 3)}) for n in range(SAMPLES)]
        (self.base / "datasets" / "d.jsonl").write_text("\n".join(lines))
        made = await self.here.post("/eval/jobs", model_id=model_id, name="n", dataset_ref="d.jsonl")
        job: str = made["job_id"]
        return job

    async def metrics(self, job: str) -> dict[str, Any]:
        """Once it is done, without times; every sample is there once, and one attempt was enough."""
        ended = await eventually(
            lambda: self.here.get(f"/jobs/{job}"), lambda seen: seen["status"] not in {"pending", "running"}
        )
        assert (ended["status"], [each["outcome"] for each in ended["attempts"]]) == ("done", ["done"]), ended
        folder = self.base / "runs" / "eval" / job
        ids = [json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()]
        assert sorted(ids) == sorted(f"q{n}" for n in range(SAMPLES)), "none lost, none twice"
        return {key: value for key, value in ended["result"].items() if key not in TIMING_KEYS}


@asynccontextmanager
async def fleet(
    base: Path,
    names: Iterable[str] = ("m1", "m2"),
    *,
    lease_s: float = LONG_S,
    job_share: float = 0.0,
    **changes: Any,
) -> AsyncIterator[Fleet]:
    """The model `a` active everywhere; gateways answer as greedy sampling does, the same wherever it is asked."""
    settings = settings_of(base)
    local = FakeGateway(settings.layout.gateway_socket)
    async with AsyncExitStack() as stack:
        stacks = {name: await stack.enter_async_context(AsyncExitStack()) for name in ("local", *names)}
        await stacks["local"].enter_async_context(local.running())
        kinds: list[JobKind] = [EvalKind(), DataGenKind(settings.layout)]
        small: dict[str, Any] = {
            "batch_items": CHUNK,
            "batch_window_items": WINDOW,
            "fleet": FleetSettings(lease_s=lease_s, job_share=job_share),
        }
        here = await stack.enter_async_context(control(base, local, kinds=kinds, **small, **changes))
        await here.add_active("a")
        members = {name: FakeMember(name) for name in names}
        for name, member in members.items():
            await stacks[name].enter_async_context(member.joined(here.http))
        await states(here, dict.fromkeys(members, "ready"))
        gateways = {"local": local, **members}
        yield Fleet(here, base, members, {name: Work(each) for name, each in gateways.items()}, stacks)


async def test_each_has_its_share_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as here:
        here.hold("local", "m1", "m2")
        job = await here.evaluate()
        for work in here.work.values():
            await work.has(2)
        assert [work.asked for work in here.work.values()] == [2, 2, 2], "a window each"
        here.release("m2")
        await here.work["m2"].has(11)  # all but what the others have
        await here.leave("m1")
        await here.work["m2"].has(13)
        here.release("local")
        metrics = await here.metrics(job)
        assert here.answered == {"local": 2 * CHUNK, "m1": 0, "m2": 13 * CHUNK}
        assert here.members["m2"].headers[0]["x-stepserve-job"] == job

        await here.leave("m2")
        assert await here.metrics(await here.evaluate()) == metrics, "one gateway's answers"
        assert here.answered["local"] == 2 * CHUNK + SAMPLES


async def test_a_member_that_moves_drains_or_is_cordoned_loses_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("m1", "m2", "m3")) as here:
        here.hold("local", "m1", "m2", "m3")
        job = await here.evaluate()
        for work in here.work.values():
            await work.has(2)
        moved = here.members["m1"]
        moved.may_switch.clear()  # control brings it back, not before the job is over
        moved.active = ModelRef(id="a", path="/elsewhere", digest="sha256:other")
        here.release("m1")
        await here.here.post("/fleet/m2/drain")
        await here.here.post("/fleet/m3/cordon")
        await eventually(
            lambda: here.here.get("/fleet"),
            lambda seen: [each["state"] for each in seen["gateways"]][1:] == ["joining", "cordoned", "cordoned"],
        )
        here.release("local", "m2")
        metrics = await here.metrics(job)
        answered = 2 * CHUNK  # a member that drains answers what it has
        assert here.answered == {"local": SAMPLES - answered, "m1": 0, "m2": answered, "m3": 0}
        here.release("m3")
        moved.may_switch.set()
        await here.here.post("/fleet/m3/uncordon")
        await states(here.here, {"m1": "ready", "m3": "ready"})
        assert await here.metrics(await here.evaluate()) == metrics
        assert here.answered["m1"] > 0
        assert here.answered["m3"] > 0
        assert here.answered["m2"] == answered


async def test_a_member_that_falls_silent_or_runs_anew_loses_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, lease_s=1.0) as here:
        here.hold("m1", "m2")
        job = await here.evaluate()
        for name in ("m1", "m2"):
            await here.work[name].has(2)
        here.members["m1"].beats.clear()
        await here.leave("m2")
        async with here.members["m2"].joined(here.here.http):
            here.release("m2")
            await here.metrics(job)
            assert here.answered["m1"] == 0
            assert sum(here.answered.values()) == SAMPLES
            here.release("m1")


async def test_members_go_on_while_controls_own_gateway_is_away(tmp_path: Path) -> None:
    async with fleet(tmp_path) as here:
        here.hold("local", "m1", "m2")
        job = await here.evaluate()
        for work in here.work.values():
            await work.has(2)
        await here.leave("local")
        here.release("m1", "m2")
        await here.metrics(job)
        assert here.answered["local"] == 0
        assert sum(here.answered.values()) == SAMPLES


async def test_a_member_that_joins_takes_part_in_a_job_that_runs(tmp_path: Path) -> None:
    """Nobody knows what its cards have used."""
    cards: dict[str, Any] = {
        "card_reader": Nvml(RecordedNvml(H200)),
        "telemetry": TelemetrySettings(interval_s=0.1),
    }
    async with fleet(tmp_path, (), **cards) as here:
        here.hold("local")
        job = await here.evaluate()
        await here.work["local"].has(2)
        late = FakeMember("m1")
        work = here.work["m1"] = Work(late)
        async with late.joined(here.here.http):
            await states(here.here, {"m1": "ready"})
            here.release("local")
            await here.metrics(job)
            assert work.answered > 0
            result = (await here.here.get(f"/jobs/{job}"))["result"]
            assert (result["gpu_seconds"], result["energy"]) == (None, None)


async def test_rows_are_made_by_all_and_each_is_there_once(tmp_path: Path) -> None:
    async with fleet(tmp_path) as here:
        for gateway in (here.here.gateway, *here.members.values()):
            gateway.answer = mostly_adds
        here.hold("m1")
        config = {"template": "What is {{a}}+{{b}}?", "rows": ROWS[:80], "verify": "executed", "num_examples": 50}
        made = await here.here.post("/data_gen/jobs", model_id="a", strategy="custom", config=config)
        await here.work["m1"].has(1)
        await here.leave("m1")
        result = (await here.here.job(made["job_id"], "done"))["result"]
        assert result["accepted"] == 50
        assert min(here.answered["local"], here.answered["m2"]) > 0
        shards = (tmp_path / "train_shards_out").glob("*.jsonl")
        rows = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
        assert len({json.dumps(row["messages"]) for row in rows}) == len(rows) == 50


async def test_a_job_runs_wherever_its_model_can_be_loaded_beside_the_active_one(tmp_path: Path) -> None:
    async with fleet(tmp_path) as here:
        await here.here.add_model("b", seed=1)
        here.members["m1"].has_room_for.add("b")
        metrics = await here.metrics(await here.evaluate("b"))
        assert here.answered == {"local": 0, "m1": SAMPLES, "m2": 0}
        assert [model.id for model in here.members["m1"].staged] == ["a", "b"]
        assert {name: each.active and each.active.id for name, each in here.members.items()} == {"m1": "a", "m2": "a"}

        here.members["m1"].beside.clear()  # left for something else, so that it is loaded again
        ended = await here.here.job(await here.evaluate("b"), "done")
        assert ended["result"].items() >= metrics.items()


async def test_a_share_of_the_fleet_is_set_apart_for_a_job_and_given_back_after_it(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("m1", "m2", "m3"), job_share=0.25) as here:
        await here.here.add_model("b", seed=1)
        for name in here.members:
            here.hold(name)
        job = await here.evaluate("b")
        shown = await eventually(
            lambda: here.here.get("/fleet"), lambda seen: any(each["model"] == "b" for each in seen["gateways"])
        )
        apart = [each for each in shown["gateways"] if each["state"] == "cordoned"]
        assert len(apart) == 1, "a quarter of four"
        name = apart[0]["id"]
        assert apart[0]["reason"] == "set apart for jobs of b (setting fleet.job_share)"
        await here.work[name].has(2)
        assert shown["committed"]["model"] == "a"
        others = [each for each in here.members if each != name]
        answer = await here.here.http.post("/models/set_active", json={"id": "b"})
        assert answer.status_code == 200, answer.text
        assert {each["id"] for each in answer.json()["gateways"]} == {"local", *others}, "it takes no part in a switch"
        await here.here.post("/models/set_active", id="a")

        here.release(*here.members)
        await here.metrics(job)
        assert here.answered[name] == SAMPLES
        await states(here.here, dict.fromkeys(here.members, "ready"))
        assert {each.active and each.active.id for each in here.members.values()} == {"a"}


async def test_without_a_share_a_job_that_has_no_room_waits(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("m1",)) as here:
        await here.here.add_model("b", seed=1)
        job = await here.evaluate("b")
        shown = await eventually(
            lambda: here.here.get(f"/jobs/{job}"), lambda seen: "room" in str(seen.get("waiting_for"))
        )
        assert shown["status"] == "pending"
        assert {each["state"] for each in (await here.here.get("/fleet"))["gateways"]} == {"ready"}
