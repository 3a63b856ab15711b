"""When a candidate's answers are shown to be worse than allowed while they are given. Pure.

Errors: a test by betting that may be looked at after every answer (the mixture of likelihood ratios against "its share
of errors is at most the limit"; Robbins 1970, Ville's inequality): a candidate within its limit is stopped with a
chance of ALPHA at most, however long it goes on.

Latency and length: a difference of means of logarithms, against the logarithm of the ratio that is allowed, by _Z of
its standard errors (Welch), from _LEAST answers of each on. They are as common for a candidate as for the active model,
since chance alone decides which requests it gets.

A judge's verdicts: a test by betting on pairs of answers, one of each model, against "the candidate's share of good
answers is smaller by at most the limit" (Waudby-Smith and Ramdas 2024, as control.promotion.sequential has it for an
eval's questions). The judge may be as harsh as it likes, since it reads both.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stepserve.canary import CanaryGuard

ALPHA = 0.01
_SHOWN = math.log(1 / ALPHA)  # so large a capital, as a logarithm, has a chance of ALPHA by luck alone
_ALTERNATIVES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
"""Where the true share of errors may lie, between the limit (0) and 1."""
_SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the capital that a bet on a pair of verdicts could lose at most."""
_LEAST = 20
_Z = 4.0  # looked at after every answer, so much more than 2


_Ratio = Literal["latency", "tokens"]


@dataclass(slots=True)
class Logs:
    """Count, sum and sum of squares of logarithms."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        log = math.log(value)
        self.count += 1
        self.total += log
        self.squares += log * log

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def variance_of_mean(self) -> float:
        return max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1) / self.count


@dataclass(slots=True)
class Arm:
    """What became of the answers of one model. Latencies and tokens are those of whole answers."""

    requests: int = 0
    errors: int = 0
    latencies_s: Logs = field(default_factory=Logs)
    tokens: Logs = field(default_factory=Logs)
    logprob: float = 0.0
    scored_tokens: int = 0

    def failed(self) -> None:
        self.requests += 1
        self.errors += 1

    def answered(self, latency_s: float, tokens: int | None) -> None:
        """`tokens` None: they are not known."""
        self.requests += 1
        self.latencies_s.add(max(latency_s, 1e-6))
        if tokens is not None:
            self.tokens.add(tokens + 1)

    def scored(self, logprob: float, tokens: int) -> None:
        """Of an answer of the active model."""
        self.logprob += logprob
        self.scored_tokens += tokens


@dataclass(slots=True)
class Judged:
    """Verdicts on pairs of answers, one of each model. `better`, `worse`: where the candidate's alone is good, or the
    active model's.
    """

    pairs: int = 0
    candidate_good: int = 0
    active_good: int = 0
    better: int = 0
    worse: int = 0

    def add(self, candidate_good: bool, active_good: bool) -> None:
        self.pairs += 1
        self.candidate_good += candidate_good
        self.active_good += active_good
        self.better += candidate_good and not active_good
        self.worse += active_good and not candidate_good

    @property
    def drop(self) -> float:
        """By how much the candidate's share of good answers is smaller. Needs a pair."""
        return (self.active_good - self.candidate_good) / self.pairs


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_latency_ratio`, `max_tokens_ratio`: of geometric means, candidate to active. `max_drop`: of the share of
    good answers. None: any.
    """

    max_error_rate: float
    max_latency_ratio: float | None = None
    max_tokens_ratio: float | None = None
    max_drop: float | None = None


def breach(candidate: Arm, active: Arm, limits: Limits, judged: Judged | None = None) -> str | None:
    """Which limit the candidate is shown to be over, as a sentence; None: none."""
    if evidence(candidate.errors, candidate.requests, limits.max_error_rate) >= _SHOWN:
        said = f"{candidate.errors} of its {candidate.requests} requests failed"
        return f"errors: {said}, more than max_error_rate {limits.max_error_rate:g} allows"
    for name, limit, new, old in _compared(candidate, active, limits):
        if _excess(new, old, limit) > 1:
            said = f"{ratio(new, old):.3g} times the active model's over {new.count} answers"
            return f"{name}: {said}, more than max_{name}_ratio {limit:g} allows"
    if judged is not None and limits.max_drop is not None and drop_evidence(judged, limits.max_drop) >= _SHOWN:
        good = f"{judged.candidate_good} of its {judged.pairs} answers are good, {judged.active_good} of the active"
        return f"judge: {good} model's, a larger drop than judge.max_drop {limits.max_drop:g} allows"
    return None


def standing(candidate: Arm, active: Arm, limits: Limits, judged: Judged | None = None) -> list[CanaryGuard]:
    """How near the candidate is to each limit that there is."""
    bet = evidence(candidate.errors, candidate.requests, limits.max_error_rate) / _SHOWN
    share = candidate.errors / candidate.requests if candidate.requests else None
    guards = [CanaryGuard(guard="errors", value=share, limit=limits.max_error_rate, evidence=_within(bet))]
    for name, limit, new, old in _compared(candidate, active, limits):
        shown = _within(_excess(new, old, limit))
        guards.append(CanaryGuard(guard=name, value=ratio(new, old), limit=limit, evidence=shown))
    if judged is not None and limits.max_drop is not None:
        drop = judged.drop if judged.pairs else None
        shown = _within(drop_evidence(judged, limits.max_drop) / _SHOWN)
        guards.append(CanaryGuard(guard="judge", value=drop, limit=limits.max_drop, evidence=shown))
    return guards


def ratio(new: Logs, old: Logs) -> float | None:
    """Of geometric means; None: one of them has no values."""
    return math.exp(new.mean - old.mean) if new.count and old.count else None


def too_few(candidate: Arm, active: Arm, limits: Limits, least: int, seconds: float) -> str | None:
    """Why a canary that is over its time has shown nothing, as a sentence; None: it has had its requests.

    Where a ratio is limited both models need `least` of them.
    """
    compared = limits.max_latency_ratio is not None or limits.max_tokens_ratio is not None
    for name, arm in (("candidate", candidate), *((("active model", active),) if compared else ())):
        if arm.requests < least:
            return (
                f"{arm.requests} requests came to the {name} in {seconds:g} s; at least {least} (min_requests) had to"
            )
    return None


def evidence(errors: int, requests: int, rate: float) -> float:
    """The logarithm of the capital of somebody who bets that the share of errors is larger than `rate`."""
    if rate >= 1 or not requests:
        return 0.0
    if rate <= 0:
        return math.inf if errors else 0.0
    bets = []
    for part in _ALTERNATIVES:
        other = rate + part * (1 - rate)
        bets.append(errors * math.log(other / rate) + (requests - errors) * math.log((1 - other) / (1 - rate)))
    return _mixed(bets)


def drop_evidence(judged: Judged, limit: float) -> float:
    """The logarithm of the capital of somebody who bets that the drop is larger than `limit`, which is less than 1."""
    same = judged.pairs - judged.better - judged.worse
    bets = []
    for share in _SHARES:
        bet = share / (1 + limit)  # a pair of the candidate's favour loses `share` of the capital
        worse, even, better = (math.log1p(bet * (drop - limit)) for drop in (1, 0, -1))
        bets.append(judged.worse * worse + same * even + judged.better * better)
    return _mixed(bets)


def _mixed(bets: Sequence[float]) -> float:
    """Of capital that was split evenly among bets, whose logarithms these are."""
    most = max(bets)
    return most + math.log(sum(math.exp(bet - most) for bet in bets) / len(bets))


def _compared(candidate: Arm, active: Arm, limits: Limits) -> Iterator[tuple[_Ratio, float, Logs, Logs]]:
    """What has a limit on its ratio, with the values of both models."""
    if limits.max_latency_ratio is not None:
        yield "latency", limits.max_latency_ratio, candidate.latencies_s, active.latencies_s
    if limits.max_tokens_ratio is not None:
        yield "tokens", limits.max_tokens_ratio, candidate.tokens, active.tokens


def _excess(new: Logs, old: Logs, limit: float) -> float:
    """How far the ratio is over its limit, in _Z standard errors: above 1 it is shown to be."""
    if min(new.count, old.count) < _LEAST:
        return 0.0
    excess = new.mean - old.mean - math.log(limit)
    error = _Z * math.sqrt(new.variance_of_mean + old.variance_of_mean)
    if error == 0:
        return math.inf if excess > 0 else 0.0
    return excess / error


def _within(evidence: float) -> float:
    return min(1.0, max(0.0, evidence))
