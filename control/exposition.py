"""Control's Prometheus series, made of what was measured: nothing is counted twice, nothing is asked here."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from control.jobs.queue import Census
from control.power.governor import PowerState
from control.telemetry.cards import Card, CardsSeen
from control.telemetry.energy import EnergyBook
from control.telemetry.system import SystemSeen
from stepserve.fleet import MemberState
from stepserve.logs import lost_lines

log = logging.getLogger(__name__)

_MIB = 1024**2
_GIB = 1024**3

_OF_CARDS: list[tuple[str, str, Callable[[Card], float | None]]] = [
    ("memory_total_bytes", "Memory of the card.", lambda card: _times(card.memory_total_mb, _MIB)),
    ("memory_used_bytes", "Memory in use.", lambda card: _times(card.memory_used_mb, _MIB)),
    ("utilization_ratio", "Share of the last period in which a kernel ran.", lambda c: _times(c.utilization_gpu, 0.01)),
    ("temperature_celsius", "Temperature of the chip.", lambda card: card.temperature_gpu),
    ("power_watts", "Power drawn now.", lambda card: card.power_draw_w),
    ("power_limit_watts", "Power limit in force.", lambda card: card.power_limit_w),
    ("fan_speed_ratio", "Fan speed, of its maximum.", lambda card: _times(card.fan_speed_pct, 0.01)),
    ("clock_sm_hertz", "Clock of the multiprocessors.", lambda card: _times(card.clock_sm_mhz, 1e6)),
    ("clock_memory_hertz", "Clock of the memory.", lambda card: _times(card.clock_mem_mhz, 1e6)),
]


@dataclass(frozen=True, slots=True)
class Shown:
    """`census` is None while the database does not answer; `held` are the types of jobs that are paused.

    `members`: how many there are of each state but control's own gateway; `rollouts`: how many ended so, None as above.
    """

    census: Census | None
    members: Mapping[MemberState, int]
    rollouts: Mapping[str, int] | None
    cards: CardsSeen
    system: SystemSeen
    book: EnergyBook
    power: PowerState
    held: Collection[str]
    loop_lag_s: float


def families(shown: Shown) -> list[Metric]:
    return [
        _gauge("stepserve_database_up", "1 while the database answers, else 0.", shown.census is not None),
        *(_jobs(shown.census) if shown.census else ()),
        *_fleet(shown.members, shown.rollouts),
        *_cards(shown.cards),
        *_energy(shown.book),
        *_system(shown.system),
        _gauge(
            "stepserve_max_concurrent_jobs", "Jobs that may run beside each other.", shown.power.max_concurrent_jobs
        ),
        _gauge("stepserve_jobs_paused", "Types of jobs that wait for space on a disk.", len(shown.held)),
        _power(shown.power),
        _gauge("stepserve_control_log_lines_lost", "Log lines of control that no disk took.", lost_lines()),
        _gauge(
            "stepserve_control_event_loop_lag_seconds",
            "The latest that control's event loop was in the last minute.",
            shown.loop_lag_s,
        ),
        *_process(),
    ]


def _jobs(census: Census) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("stepserve_jobs", "Jobs in the database.", labels=["type", "status"])
    for (job_type, status), count in sorted(census.counts.items()):
        jobs.add_metric([job_type, status], count)
    yield jobs
    depth = sum(count for (_, status), count in census.counts.items() if status == "pending")
    yield _gauge("stepserve_queue_depth", "Pending jobs.", depth)
    yield _gauge(
        "stepserve_queue_oldest_age_seconds", "How long the oldest pending job has waited.", census.oldest_pending_s
    )


def _fleet(members: Mapping[MemberState, int], rollouts: Mapping[str, int] | None) -> Iterable[Metric]:
    """By state and never by member, so that a fleet that grows makes no more series."""
    states = GaugeMetricFamily("stepserve_fleet_members", "Gateways that joined, by what they are.", labels=["state"])
    for state in get_args(MemberState):
        states.add_metric([state], members.get(state, 0))
    yield states
    if rollouts is None:
        return
    ended = CounterMetricFamily(
        "stepserve_fleet_rollouts", "Switches of the whole fleet that ended so.", labels=["end"]
    )
    for end in ("committed", "rolled_back"):
        ended.add_metric([end], rollouts.get(end, 0))
    yield ended
    running = sum(count for state, count in rollouts.items() if state not in {"committed", "rolled_back"})
    yield _gauge("stepserve_fleet_rollout_running", "1 while a switch of the whole fleet runs.", running)


def _cards(seen: CardsSeen) -> Iterable[Metric]:
    yield _gauge("stepserve_gpus", "GPUs that answer.", len(seen.cards))
    if not seen.cards:
        return
    yield _gauge("stepserve_gpu_sample_age_seconds", "Age of what is shown.", time.monotonic() - seen.at_s)
    for name, text, value_of in _OF_CARDS:
        family = GaugeMetricFamily(f"stepserve_gpu_{name}", text, labels=["gpu", "name"])
        for card in seen.cards:
            value = value_of(card)
            if value is not None:
                family.add_metric(_labels(card), value)
        yield family
    energy = CounterMetricFamily("stepserve_gpu_energy_joules", "By the card's own counter.", labels=["gpu", "name"])
    throttled = GaugeMetricFamily(
        "stepserve_gpu_throttled", "1 for each reason why the card runs below full speed.", labels=["gpu", "reason"]
    )
    for card in seen.cards:
        if card.energy_j is not None:
            energy.add_metric(_labels(card), card.energy_j)
        for reason in card.throttle_reasons:
            throttled.add_metric([str(card.index), reason], 1)
    yield energy
    yield throttled


def _energy(book: EnergyBook) -> Iterable[Metric]:
    used = CounterMetricFamily(
        "stepserve_energy_joules", "Energy of the cards by who used it.", labels=["model", "class"]
    )
    for (model, kind), joules in sorted(book.by_model.items()):
        used.add_metric([model, kind], joules)
    used.add_metric(["", "idle"], book.idle_j + book.pending_j)
    yield used
    per_tokens = GaugeMetricFamily(
        "stepserve_energy_joules_per_1000_tokens", "Since control started, prompts included.", labels=["model"]
    )
    for model in sorted({model for model, _ in book.by_model}):
        value = book.joules_per_1000_tokens(model)
        if value is not None:
            per_tokens.add_metric([model], value)
    yield per_tokens
    by_type = CounterMetricFamily("stepserve_job_energy_joules", "Energy of jobs.", labels=["type"])
    for job_type, joules in sorted(book.by_job_type.items()):
        by_type.add_metric([job_type], joules)
    yield by_type


def _system(seen: SystemSeen) -> Iterable[Metric]:
    yield _gauge("stepserve_cpu_load_ratio", "Load of what this machine or container may use.", seen.cpu_load)
    yield _gauge("stepserve_memory_used_bytes", "Memory in use.", seen.ram_used_gb * _GIB)
    yield _gauge("stepserve_memory_total_bytes", "Memory there is, or the container's limit.", seen.ram_total_gb * _GIB)
    used = GaugeMetricFamily("stepserve_disk_used_bytes", "Disk space in use.", labels=["mount"])
    total = GaugeMetricFamily("stepserve_disk_total_bytes", "Disk space there is.", labels=["mount"])
    up = GaugeMetricFamily("stepserve_disk_up", "1 while a mount answers, else 0.", labels=["mount"])
    for disk in seen.disk:
        up.add_metric([disk.mount], disk.problem is None)
        if disk.used_gb is not None and disk.total_gb is not None:
            used.add_metric([disk.mount], disk.used_gb * _GIB)
            total.add_metric([disk.mount], disk.total_gb * _GIB)
    yield from (used, total, up)


def _power(power: PowerState) -> Metric:
    labels = ["profile", "source", "applied"]
    family = GaugeMetricFamily("stepserve_power_profile_info", "The profile that holds.", labels=labels)
    family.add_metric([power.profile or "", power.source, str(power.power_applied).lower()], 1)
    return family


def _process() -> Iterable[Metric]:
    """Of control; the gateway's own are the usual process_… series."""
    process = psutil.Process()
    times = process.cpu_times()
    cpu = CounterMetricFamily("stepserve_control_process_cpu_seconds", "CPU time of control.")
    cpu.add_metric([], times.user + times.system)
    yield cpu
    resident = process.memory_info().rss
    yield _gauge("stepserve_control_process_resident_memory_bytes", "Memory of control.", resident)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _labels(card: Card) -> list[str]:
    return [str(card.index), card.name or ""]


def _times(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
