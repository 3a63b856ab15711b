"""What was served and measured in a second, a minute or longer. Samples that follow each other add up to one. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from control.telemetry.cards import Card
from control.telemetry.system import SystemSeen
from stepserve.serving_report import ServingReport

MarkKind = Literal["push", "death"]
_LATER = "inf"


class Mark(BaseModel):
    """Something that happened which no other table has. `said`: the version that was pushed."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    kind: MarkKind
    model: str
    said: str | None = None


class CardSample(BaseModel):
    model_config = ConfigDict(frozen=True)

    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    utilization_gpu: float | None = None
    power_draw_w: float | None = None
    temperature_gpu: float | None = None


class Sample(BaseModel):
    """From `at`, for `span_s`. Without `requests` the gateway did not answer.

    `tokens`: completion tokens by model. `first_tokens`: how many came within each bound in seconds and after the one
    before (`inf`: after the last). What is no count is a mean over the span, `waiting` the most.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    span_s: float
    requests: int | None = None
    running: float | None = None
    waiting: float | None = None
    tokens: dict[str, int] = {}
    first_tokens: dict[str, int] = {}
    cpu_percent: float | None = None
    ram_percent: float | None = None
    cards: list[CardSample] = []
    marks: list[Mark] = []


def sample_of(
    at: datetime,
    span_s: float,
    before: ServingReport | None,
    now: ServingReport | None,
    system: SystemSeen | None,
    cards: Sequence[Card],
) -> Sample:
    """Between two reports of one start of the gateway; what it did before it was asked first is not counted."""
    machine = Sample(
        at=at,
        span_s=span_s,
        cpu_percent=None if system is None else 100 * system.cpu_load,
        ram_percent=None if system is None else system.ram_percent,
        cards=[CardSample.model_validate(card, from_attributes=True) for card in cards],
    )
    if now is None:
        return machine
    known = before if before is not None and before.boot_id == now.boot_id else None
    served: dict[str, Any] = {"running": now.running, "waiting": now.waiting}
    if known is not None:
        served |= {
            "requests": max(0, now.requests - known.requests),
            "tokens": _more(now.tokens, known.tokens),
            "first_tokens": _more(_by_bound(now), _by_bound(known)),
            "marks": [*_deaths(known, now), *_pushes(known, now, at)],
        }
    return machine.model_copy(update=served)


def merged(samples: Sequence[Sample]) -> Sample:
    """One of all of them, at least one, in their order."""
    counted = [sample.requests for sample in samples if sample.requests is not None]
    most = [sample.waiting for sample in samples if sample.waiting is not None]
    return Sample(
        at=samples[0].at,
        span_s=sum(sample.span_s for sample in samples),
        requests=sum(counted) if counted else None,
        running=_mean(sample.running for sample in samples),
        waiting=max(most, default=None),
        tokens=_sum(sample.tokens for sample in samples),
        first_tokens=_sum(sample.first_tokens for sample in samples),
        cpu_percent=_mean(sample.cpu_percent for sample in samples),
        ram_percent=_mean(sample.ram_percent for sample in samples),
        cards=_mean_cards([sample.cards for sample in samples]),
        marks=[mark for sample in samples for mark in sample.marks],
    )


def thinned(samples: Iterable[Sample], step_s: float) -> list[Sample]:
    """One for each step of time in which there is any; steps begin at multiples of `step_s`."""
    return [merged(list(some)) for _, some in groupby(samples, lambda sample: sample.at.timestamp() // step_s)]


def first_token_s(first_tokens: Mapping[str, int], share: float) -> float | None:
    """The time within which this share of first tokens came, as Prometheus estimates it from a histogram: evenly spread
    within a bound. None without any; the last bound where it lies beyond it.
    """
    rows = sorted((float(bound), count) for bound, count in first_tokens.items())
    wanted = share * sum(count for _, count in rows)
    if not wanted:
        return None
    low = 0.0
    for bound, count in rows:
        if count >= wanted:
            return low if bound == float(_LATER) else low + (bound - low) * wanted / count
        wanted -= count
        low = bound
    return low


def shown(sample: Sample) -> dict[str, Any]:
    """As JSON: counts as rates, first tokens as quantiles."""
    per_s = None if sample.requests is None else round(sample.requests / sample.span_s, 3)
    return {
        "at": sample.at.isoformat(),
        "span_s": round(sample.span_s, 3),
        "requests_per_s": per_s,
        "running": sample.running,
        "waiting": sample.waiting,
        "tokens_per_s": {model: round(count / sample.span_s, 3) for model, count in sample.tokens.items()},
        "first_token_p50_s": first_token_s(sample.first_tokens, 0.5),
        "first_token_p99_s": first_token_s(sample.first_tokens, 0.99),
        "cpu_percent": sample.cpu_percent,
        "ram_percent": sample.ram_percent,
        "cards": [card.model_dump() for card in sample.cards],
    }


def _by_bound(report: ServingReport) -> dict[str, int]:
    names = [*map(str, report.first_token_bounds_s), _LATER]
    return dict(zip(names, report.first_token_counts, strict=False))


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What came in addition; a count that fell began anew and says nothing."""
    grown = {name: count - before.get(name, 0) for name, count in now.items()}
    return {name: count for name, count in grown.items() if count > 0}


def _deaths(before: ServingReport, now: ServingReport) -> Iterable[Mark]:
    known = max((death.number for death in before.deaths), default=0)
    for death in now.deaths:
        if death.number > known:
            yield Mark(at=datetime.fromisoformat(death.at), kind="death", model=death.model_id)


def _pushes(before: ServingReport, now: ServingReport, at: datetime) -> Iterable[Mark]:
    if now.version > before.version and now.active is not None:
        yield Mark(at=at, kind="push", model=now.active, said=f"version {now.version}")


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _mean_cards(seen: Sequence[Sequence[CardSample]]) -> list[CardSample]:
    """By their place; a card that was not always there counts for as long as it was."""
    means = []
    for place in range(max(map(len, seen), default=0)):
        there = [cards[place] for cards in seen if place < len(cards)]
        fields = CardSample.model_fields
        means.append(CardSample(**{name: _mean(getattr(card, name) for card in there) for name in fields}))
    return means
