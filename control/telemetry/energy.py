"""Who used the cards: a second, and its joules, go to those whose generations took up the engine in it."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TypeVar

from control.telemetry.cards import Card, CardsSeen
from stepserve.contract import RequestClass, UsageReport
from stepserve.jobs.ports import CardUse

Key = TypeVar("Key")
_LONGEST_GAP_S = 30.0
_MODELS_KEPT = 64  # with their class
_JOBS_KEPT = 1024


@dataclass(slots=True)
class EnergyBook:
    """Pure book-keeping of joules since the process started. What is given in is given out: nothing is lost.

    Of the cards' time only the jobs' shares are kept.

    The shares are those of `busy_s`, the time that generations were in the engine. It is known when one ends, so what
    is used while none ends waits in `pending_j` for the next. `idle_j`: nothing was being generated.
    """

    by_model: OrderedDict[tuple[str, RequestClass], float] = field(default_factory=OrderedDict)
    by_job: OrderedDict[str, float] = field(default_factory=OrderedDict)
    gpu_s_by_job: OrderedDict[str, float] = field(default_factory=OrderedDict)
    by_job_type: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    idle_j: float = 0.0
    pending_j: float = 0.0
    _pending_gpu_s: float = 0.0
    _last: UsageReport | None = None

    def tick(self, joules: float, report: UsageReport | None, gpu_s: float = 0.0) -> None:
        """What the cards used, and for how long, since the last tick.

        `report` is None when the gateway could not be asked: then nobody is known to have used it.
        """
        if report is None:
            self.idle_j += joules
            return
        before, self._last = self._last, report
        if before is None or before.boot_id != report.boot_id:
            before = UsageReport(boot_id=report.boot_id, in_flight=0, models=[], jobs=[])
        shares = _since(
            {(row.model, row.request_class): row.busy_s for row in before.models},
            {(row.model, row.request_class): row.busy_s for row in report.models},
        )
        whole_s = sum(shares.values())
        self.pending_j += joules
        self._pending_gpu_s += gpu_s
        if whole_s > 0:
            given_j, self.pending_j = self.pending_j, 0.0
            given_gpu_s, self._pending_gpu_s = self._pending_gpu_s, 0.0
            for key, busy_s in shares.items():
                _add(self.by_model, key, given_j * busy_s / whole_s, _MODELS_KEPT)
            jobs = _since(
                {row.job_id: row.busy_s for row in before.jobs}, {row.job_id: row.busy_s for row in report.jobs}
            )
            for job, busy_s in jobs.items():
                _add(self.by_job, job, given_j * busy_s / whole_s, _JOBS_KEPT)
                _add(self.gpu_s_by_job, job, given_gpu_s * busy_s / whole_s, _JOBS_KEPT)
                self.by_job_type[job.rsplit("_", 3)[0]] += given_j * busy_s / whole_s  # <type>_<date>_<time>_<random>
        elif not report.in_flight:
            self.idle_j += self.pending_j
            self.pending_j = self._pending_gpu_s = 0.0

    def joules_per_1000_tokens(self, model: str) -> float | None:
        """Over all classes, prompt and completion tokens alike; None before there are any."""
        tokens = sum(
            row.prompt_tokens + row.completion_tokens
            for row in (self._last.models if self._last else ())
            if row.model == model
        )
        joules = sum(given for (name, _), given in self.by_model.items() if name == model)
        return joules * 1000 / tokens if tokens and joules else None

    def of_job(self, job_id: str) -> CardUse:
        """Time without energy is that of cards that cannot tell what they draw."""
        joules, gpu_s = self.by_job.get(job_id), self.gpu_s_by_job.get(job_id)
        gpu_seconds = round(gpu_s, 3) if gpu_s else None
        if not joules:
            return CardUse(gpu_seconds)
        tokens = sum(
            row.prompt_tokens + row.completion_tokens
            for row in (self._last.jobs if self._last else ())
            if row.job_id == job_id
        )
        found = {"joules": round(joules, 3)}
        return CardUse(
            gpu_seconds, found | ({"joules_per_1000_tokens": round(joules * 1000 / tokens, 3)} if tokens else {})
        )


def joules_between(before: CardsSeen, now: CardsSeen) -> float:
    """What all cards used between two samples: by their own counters, or by power times time where there is none."""
    gap_s = now.at_s - before.at_s
    if not before.cards or not 0 < gap_s <= _LONGEST_GAP_S:
        return 0.0
    earlier = {card.index: card for card in before.cards}
    return sum(_of_card(earlier[card.index], card, gap_s) for card in now.cards if card.index in earlier)


def gpu_seconds_between(before: CardsSeen, now: CardsSeen) -> float:
    """The time between two samples, once for each card that is in both."""
    gap_s = now.at_s - before.at_s
    if not 0 < gap_s <= _LONGEST_GAP_S:
        return 0.0
    return gap_s * len({card.index for card in before.cards} & {card.index for card in now.cards})


def _of_card(before: Card, now: Card, gap_s: float) -> float:
    if before.energy_j is not None and now.energy_j is not None and now.energy_j >= before.energy_j:
        return now.energy_j - before.energy_j
    draws_w = [card.power_draw_w for card in (before, now) if card.power_draw_w is not None]
    return gap_s * sum(draws_w) / len(draws_w) if draws_w else 0.0


def _add(book: OrderedDict[Key, float], key: Key, joules: float, kept: int) -> None:
    """What was not heard of for longest falls out."""
    book[key] = book.get(key, 0.0) + joules
    book.move_to_end(key)
    if len(book) > kept:
        book.popitem(last=False)


def _since(before: dict[Key, float], now: dict[Key, float]) -> dict[Key, float]:
    return {key: grown for key, value in now.items() if (grown := value - before.get(key, 0.0)) > 0}
