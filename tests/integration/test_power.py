"""The governor by the clock, on a real database."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

from control.database.database import Database, url_of
from control.power.choices import PowerChoices
from control.power.governor import Governor
from control.telemetry.nvml import Nvml
from control.telemetry.sampler import CardSampler
from stepserve.settings import PowerSettings
from tests.integration.control_plane import settings_of
from tests.unit.control.recorded_nvml import H200, RecordedNvml

HERE = timezone(timedelta(hours=1))
NIGHTS = PowerSettings.model_validate({"schedule": [{"start": "22:00", "end": "07:00", "profile": "quiet"}]})


class Jobs:
    limit = 0

    def set_max_concurrent_jobs(self, count: int) -> None:
        self.limit = count


async def test_the_schedule_and_a_choice_in_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, power=NIGHTS, max_concurrent_jobs=4)
    settings.layout.create()
    database = Database(url_of(settings))
    await database.migrate()
    library, jobs = RecordedNvml(H200), Jobs()
    now = datetime(2025, 11, 22, 21, 0, tzinfo=HERE)
    choices = PowerChoices(database, clock=lambda: now)
    governor = Governor(settings, choices, CardSampler(Nvml(library), 1.0), jobs, now=lambda: now)

    def limits() -> tuple[float, int]:
        return library.cards[0]["nvmlDeviceGetPowerManagementLimit"] / 1000, jobs.limit

    await governor.apply()
    assert limits() == (700, 4), "nobody chose anything: the card is left alone"
    now += timedelta(hours=2)
    await governor.apply()
    assert limits() == (220, 1)
    assert (governor.state.profile, governor.state.source) == ("quiet", "schedule")
    await governor.choose("max")
    assert limits() == (350, 2)
    now += timedelta(hours=24)
    await governor.apply()
    assert limits() == (220, 1), "the next night begins anew"
    now += timedelta(hours=10)
    await governor.apply()
    assert limits() == (350, 2), "by day the choice holds again"
    library.cards[0]["nvmlDeviceGetPowerManagementLimit"] = 500_000
    await governor.apply()
    assert limits() == (350, 2), "somebody moved the limit"
    await database.close()


async def test_a_night_without_a_choice_leaves_the_default_behind(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, power=NIGHTS, max_concurrent_jobs=4)
    settings.layout.create()
    database = Database(url_of(settings))
    await database.migrate()
    library, jobs = RecordedNvml(H200), Jobs()
    now = datetime(2025, 11, 22, 23, 0, tzinfo=HERE)
    governor = Governor(settings, PowerChoices(database), CardSampler(Nvml(library), 1.0), jobs, now=lambda: now)
    await governor.apply()
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 220_000
    now += timedelta(hours=12)
    await governor.apply()
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 700_000
    assert jobs.limit == 4
    await database.close()
