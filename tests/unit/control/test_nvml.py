import pytest

from control.telemetry.cards import NoCards, PowerRange, PowerRefused
from control.telemetry.nvml import Nvml
from tests.unit.control.recorded_nvml import GPU_IS_LOST, GTX, H200, NVMLError, RecordedNvml


def test_every_value_in_its_unit() -> None:
    reader = Nvml(RecordedNvml(H200))
    (card,) = reader.read()
    assert reader.driver_version == "580.65.06"
    assert (card.name, card.memory_total_mb, card.memory_used_mb) == ("NVIDIA H200", 143771, 4031)
    assert (card.utilization_gpu, card.utilization_mem, card.temperature_gpu) == (37, 12, 41)
    assert (card.power_draw_w, card.power_limit_w) == (214.37, 700)
    assert card.power_range == PowerRange(min_w=200, max_w=700, default_w=700)
    assert card.energy_j == 1000
    assert card.throttle_reasons == ["sw_power_cap"]
    assert [(each.pid, each.name, each.memory_mb) for each in card.processes] == [(77, "python", 4000)]


def test_what_a_card_lacks_is_null_and_not_asked_for_again() -> None:
    library = RecordedNvml(GTX, H200)
    reader = Nvml(library)
    reader.read()
    first, second = reader.read()
    assert first.fan_speed_pct == 33
    assert (first.power_draw_w, first.power_range, first.energy_j, first.utilization_gpu) == (None, None, None, None)
    assert [(each.name, each.memory_mb) for each in first.processes] == [(None, None)]
    assert second.fan_speed_pct is None
    assert library.calls["nvmlDeviceGetPowerUsage"] == 1 + 2  # once of the first card, twice of the second
    assert library.calls["nvmlDeviceGetName"] == 2  # what cannot change is asked once


def test_no_library_says_why_and_is_tried_again() -> None:
    library = RecordedNvml(H200)
    library.missing = NVMLError(9)
    reader = Nvml(library)
    with pytest.raises(NoCards, match="NVML is not available"):
        reader.read()
    library.missing = None
    assert len(reader.read()) == 1


def test_a_lost_card_is_no_card_until_it_is_back() -> None:
    library = RecordedNvml(H200)
    reader = Nvml(library)
    reader.read()
    library.cards[0]["nvmlDeviceGetTemperature"] = NVMLError(GPU_IS_LOST)
    with pytest.raises(NoCards, match="GPU is lost"):
        reader.read()
    library.cards[0]["nvmlDeviceGetTemperature"] = 40
    assert reader.read()[0].temperature_gpu == 40


def test_a_value_that_fails_once_is_asked_for_again() -> None:
    library = RecordedNvml(H200)
    reader = Nvml(library)
    library.cards[0]["nvmlDeviceGetPowerUsage"] = NVMLError(999)
    assert reader.read()[0].power_draw_w is None
    library.cards[0]["nvmlDeviceGetPowerUsage"] = 100_000
    assert reader.read()[0].power_draw_w == 100


def test_setting_a_limit() -> None:
    library = RecordedNvml(H200)
    reader = Nvml(library)
    reader.set_power_limit(0, 350.4)
    assert library.cards[0]["nvmlDeviceGetPowerManagementLimit"] == 350_400
    library.may_set = False
    with pytest.raises(PowerRefused, match="Insufficient Permissions"):
        reader.set_power_limit(0, 300)
