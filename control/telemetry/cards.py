"""GPUs as the rest of control sees them. A value that a card does not have is None."""

from dataclasses import dataclass, field
from typing import Protocol


class NoCards(Exception):
    """There is no GPU that can be looked at; the text says why."""


class PowerRefused(Exception):
    """The power limit could not be set that way; the text says why."""


@dataclass(frozen=True, slots=True)
class CardProcess:
    pid: int
    name: str | None
    memory_mb: float | None


@dataclass(frozen=True, slots=True)
class PowerRange:
    min_w: float
    max_w: float
    default_w: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """One card at one moment. `energy_j` counts since the driver was loaded, `throttle_reasons` is empty at full
    speed."""

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_total_mb: float | None = None
    memory_used_mb: float | None = None
    utilization_gpu: float | None = None
    utilization_mem: float | None = None
    temperature_gpu: float | None = None
    power_draw_w: float | None = None
    power_limit_w: float | None = None
    power_range: PowerRange | None = None
    fan_speed_pct: float | None = None
    energy_j: float | None = None
    clock_sm_mhz: float | None = None
    clock_mem_mhz: float | None = None
    throttle_reasons: list[str] = field(default_factory=list)
    processes: list[CardProcess] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CardsSeen:
    """`problem` says why there are none, or why what is shown is old. `at_s` is of time.monotonic."""

    cards: list[Card] = field(default_factory=list)
    driver_version: str | None = None
    problem: str | None = "the cards have not been looked at yet"
    at_s: float = 0.0


class CardReader(Protocol):
    """All methods block, for as long as the driver does."""

    @property
    def driver_version(self) -> str | None: ...

    def read(self) -> list[Card]:
        """Every card now. Raises NoCards."""
        ...

    def set_power_limit(self, index: int, watts: float) -> None:
        """Raises PowerRefused."""
        ...
