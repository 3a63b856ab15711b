"""The cards of a machine as a played-back NVML has them."""

from types import SimpleNamespace
from typing import Any

from stepserve.devices import CardDriver, cards
from stepserve.placement import Device
from tests.unit.control.recorded_nvml import GTX, H200, MIB, NOT_SUPPORTED, NVMLError, RecordedNvml

LARGE = Device("0", 139740 * MIB, "NVIDIA H200", "GPU-6f6a1e0b-0000-0000-0000-000000000001", 143771 * MIB)
SMALL = Device("1", 1748 * MIB, "NVIDIA GeForce GTX 750 Ti", "GPU-6f6a1e0b-0000-0000-0000-000000000002", 2048 * MIB)


class SplitNvml(RecordedNvml):
    """The first card is in two parts of the seven that there could be."""

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        return [int(handle == 0), int(handle == 0)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, part: int) -> int:
        if part > 1:
            raise NVMLError(NOT_SUPPORTED)
        return len(self.cards) - 2 + part


class CountedNvml(RecordedNvml):
    opened = 0
    fails = False

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.fails:
            raise NVMLError(9)
        return super().nvmlDeviceGetCount()


def test_cards_have_their_numbers_ids_and_memory() -> None:
    assert cards(None, RecordedNvml(H200, GTX)) == [LARGE, SMALL]


def test_cards_that_are_not_visible_are_left_out_and_the_order_is_the_variables() -> None:
    machine = RecordedNvml(H200, GTX)
    assert cards("1,0", machine) == [SMALL, LARGE]
    assert cards(LARGE.uuid, machine) == [LARGE]
    assert cards("", machine) == []


def test_parts_of_a_card_are_devices_of_their_own() -> None:
    part = H200 | {"nvmlDeviceGetMemoryInfo": SimpleNamespace(total=70 * MIB, used=0, free=60 * MIB)}
    machine = SplitNvml(H200, GTX, part | {"nvmlDeviceGetUUID": "MIG-a1"}, part | {"nvmlDeviceGetUUID": "MIG-b2"})
    machine.nvmlDeviceGetCount = lambda: 2  # type: ignore[method-assign]  # the parts are no cards
    kind = "NVIDIA H200 MIG"
    parts = [
        Device("0:0", 60 * MIB, f"{kind} 0:0", "MIG-a1", 70 * MIB),
        Device("0:1", 60 * MIB, f"{kind} 0:1", "MIG-b2", 70 * MIB),
    ]
    assert cards(None, machine) == [*parts, SMALL]
    assert cards("MIG-b2", machine) == [parts[1]]


def test_a_driver_is_opened_once_and_again_after_it_has_failed() -> None:
    machine = CountedNvml(H200, GTX)
    driver = CardDriver(machine)
    assert driver.cards() == driver.cards() == [LARGE, SMALL]
    assert machine.opened == 1
    machine.fails = True
    assert driver.cards() == []
    machine.fails = False
    assert driver.cards() == [LARGE, SMALL]
    assert machine.opened == 2


def test_a_machine_without_a_driver_or_a_card_whose_memory_is_not_told_has_none() -> None:
    machine = RecordedNvml(GTX)
    machine.missing = NVMLError(9)
    assert cards(None, machine) == []
    shared = H200 | {"nvmlDeviceGetMemoryInfo": NVMLError(NOT_SUPPORTED)}
    assert cards(None, RecordedNvml(shared, GTX)) == [SMALL]
