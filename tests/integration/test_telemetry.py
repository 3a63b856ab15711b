"""What the person who runs the box looks at, with a card that NVML's recorded words stand for."""

import itertools
import json
from pathlib import Path

from control.telemetry.nvml import Nvml
from stepserve.settings import PowerSettings, TelemetrySettings
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control_plane
from tests.unit.control.recorded_nvml import GTX, H200, NVMLError, RecordedNvml

FAST = TelemetrySettings(interval_s=0.1)


def power(**values: object) -> PowerSettings:
    return PowerSettings.model_validate(values)


async def held_jobs(here: ControlPlane, count: int) -> list[str]:
    here.kind.may_go.clear()
    return [str((await here.post("/echo/jobs", model_id="a"))["job_id"]) for _ in range(count)]


async def running(here: ControlPlane) -> int:
    return int((await here.get("/jobs/stats"))["running"])


async def metric(here: ControlPlane, name: str) -> float:
    text = (await here.http.get("/metrics")).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def test_gpu_shows_every_card_the_first_on_top(tmp_path: Path) -> None:
    library = RecordedNvml(H200, GTX)
    async with control_plane(tmp_path, card_reader=Nvml(library), telemetry=FAST) as here:
        seen = await here.get("/gpu")
        assert (seen["name"], seen["driver_version"], seen["temperature_gpu"]) == ("NVIDIA H200", "580.65.06", 41)
        assert (seen["power_draw_w"], seen["power_limit_w"], seen["fan_speed_pct"]) == (214.37, 700, None)
        assert [card["name"] for card in seen["gpus"]] == ["NVIDIA H200", "NVIDIA GeForce GTX 750 Ti"]
        assert seen["gpus"][0]["processes"] == [{"pid": 77, "name": "python", "memory_mb": 4000}]
        library.cards[0]["nvmlDeviceGetTemperature"] = 88
        await eventually(lambda: here.get("/gpu"), lambda gpu: gpu["temperature_gpu"] == 88)


async def test_no_gpu_says_why(tmp_path: Path) -> None:
    library = RecordedNvml()
    library.missing = NVMLError(12)
    async with control_plane(tmp_path, card_reader=Nvml(library)) as here:
        response = await here.http.get("/gpu")
        assert response.status_code == 503
        assert response.json()["detail"] == "NVML is not available: 12"
        assert (await here.get("/system"))["ram_total_gb"] > 0
        chosen = (await here.http.post("/settings/power_profile?profile=max")).json()
        assert (chosen["profile"], chosen["max_concurrent_jobs"], chosen["power_applied"]) == ("max", 2, False)
        assert chosen["reason"] == "NVML is not available: 12"
        assert (chosen["status"], chosen["power_limit_w"], chosen["card_power_limit_w"]) == ("success", 350, None)
        shown = await here.get("/settings/power_profile")
        assert shown["current"] == "max"
        assert shown["profiles"]["quiet"] == {
            "power_limit_w": 220, "max_concurrent_jobs": 1, "description": "little noise and heat"
        }  # fmt: skip


async def test_a_profile_limits_cards_and_jobs_at_once_and_after_a_restart(tmp_path: Path) -> None:
    library = RecordedNvml(H200)
    async with control_plane(tmp_path, card_reader=Nvml(library), telemetry=FAST) as here:
        await here.add_active("a")
        await held_jobs(here, 3)
        await eventually(lambda: running(here), lambda count: count == 1)
        chosen = (await here.http.post("/settings/power_profile?profile=max")).json()
        assert chosen == {
            "status": "success", "profile": "max", "source": "chosen", "power_limit_w": 350,
            "card_power_limit_w": 350, "max_concurrent_jobs": 2, "power_applied": True,
        }  # fmt: skip
        assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 350_000
        await eventually(lambda: running(here), lambda count: count == 2)
        here.kind.may_go.set()
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["done"] == 3)
    fresh = RecordedNvml(H200)
    async with control_plane(tmp_path, card_reader=Nvml(fresh), telemetry=FAST) as here:
        state = await eventually(lambda: here.get("/settings/power_profile"), lambda shown: shown["power_applied"])
        assert (state["profile"], state["max_concurrent_jobs"], state["power_limit_w"]) == ("max", 2, 350)
        assert fresh.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 350_000


async def test_a_limit_the_card_does_not_allow_is_brought_into_its_range(tmp_path: Path) -> None:
    own = power(profiles={"mine": {"power_limit_w": 50, "max_concurrent_jobs": 3}})
    async with control_plane(tmp_path, card_reader=Nvml(RecordedNvml(H200)), power=own) as here:
        chosen = (await here.http.post("/settings/power_profile?profile=mine")).json()
        assert (chosen["power_limit_w"], chosen["max_concurrent_jobs"]) == (200, 3)
        refused = await here.http.post("/settings/power_profile?profile=loud")
        assert refused.status_code == 400
        assert refused.json()["detail"] == "profile: there is no 'loud'; there are quiet, normal, max, mine"


async def test_without_the_right_to_set_limits_the_job_limit_holds(tmp_path: Path) -> None:
    library = RecordedNvml(H200)
    library.may_set = False
    async with control_plane(tmp_path, card_reader=Nvml(library), max_concurrent_jobs=4) as here:
        chosen = (await here.http.post("/settings/power_profile?profile=quiet")).json()
        assert (chosen["max_concurrent_jobs"], chosen["power_limit_w"], chosen["power_applied"]) == (1, 220, False)
        assert chosen["card_power_limit_w"] == 700
        assert "Insufficient Permissions" in chosen["reason"]
        assert "nvidia-smi" in chosen["reason"]


async def test_a_job_says_what_it_used_and_which_request_made_it(tmp_path: Path) -> None:
    library = RecordedNvml(H200)
    async with control_plane(tmp_path, card_reader=Nvml(library), telemetry=FAST) as here:
        await here.add_active("a")
        await eventually(lambda: metric(here, "stepserve_gpus"), lambda gpus: gpus == 1)
        (job_id,) = await held_jobs(here, 1)
        library.cards[0]["nvmlDeviceGetTotalEnergyConsumption"] += 500_000
        await eventually(
            lambda: metric(here, 'stepserve_energy_joules_total{class="idle"'), lambda joules: joules == 500
        )
        # It draws on: whenever the job's end is looked at, there is something that nobody has been given yet.
        counter = itertools.count(1_501_000, 1_000)
        library.cards[0]["nvmlDeviceGetTotalEnergyConsumption"] = lambda: next(counter)
        here.kind.may_go.set()
        job = await here.job(job_id, "done")
        assert job["result"]["energy"]["joules"] > 0
        used = await metric(here, 'stepserve_energy_joules_total{class="batch",model="a"')
        assert used == job["result"]["energy"]["joules"]
        assert job["result"]["gpu_seconds"] > 0

        made = await here.http.post("/echo/jobs", json={"model_id": "a"}, headers={"X-Request-Id": "r-17"})
        job = await here.job(made.json()["job_id"], "done")
        assert job["request_id"] == "r-17"
        headers = here.gateway.headers[-1]
        assert (headers["x-request-id"], headers["x-stepserve-job"]) == ("r-17", job["id"])


async def test_jobs_in_the_metrics(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await held_jobs(here, 2)
        assert await metric(here, 'stepserve_jobs{status="pending",type="echo"}') >= 1
        assert await metric(here, "stepserve_database_up") == 1
        here.kind.may_go.set()


async def test_the_end_of_a_log(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        log = here.layout.logs / "jobs.log"
        log.write_text("".join(json.dumps({"n": number}) + "\n" for number in range(500)))
        shown = await here.get("/logs/jobs?lines=2")
        assert shown == {"component": "jobs", "lines": ['{"n": 498}', '{"n": 499}']}
        assert len((await here.get("/logs/jobs"))["lines"]) == 100
        refused = await here.http.get("/logs/passwd")
        assert (refused.status_code, refused.json()["detail"]) == (
            400, "component: there is no log 'passwd'; there are api_server, gpu_worker, jobs",
        )  # fmt: skip
        assert (await here.http.get("/logs/jobs?lines=0")).status_code == 422
