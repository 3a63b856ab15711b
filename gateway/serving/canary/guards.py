"""When a candidate's answers are shown to be worse than allowed while they are given. Pure.

Errors: a test by betting that may be looked at after every answer (the mixture of likelihood ratios against "its share
of errors is at most the limit"; Robbins 1970, Ville's inequality): a candidate within its limit is stopped with a
chance of ALPHA at most, however long it goes on.

Latency and length: a difference of means of logarithms, against the logarithm of the ratio that is allowed, by _Z of
its standard errors (Welch), from _LEAST answers of each on. They are as common for a candidate as for the active model,
since chance alone decides which requests it gets.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from stepserve.contract import CanaryGuard

ALPHA = 0.01
_ALTERNATIVES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
"""Where the true share of errors may lie, between the limit (0) and 1."""
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


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_latency_ratio`, `max_tokens_ratio`: of geometric means, candidate to active; None: any."""

    max_error_rate: float
    max_latency_ratio: float | None = None
    max_tokens_ratio: float | None = None


def breach(candidate: Arm, active: Arm, limits: Limits) -> str | None:
    """Which limit the candidate is shown to be over, as a sentence; None: none."""
    if evidence(candidate.errors, candidate.requests, limits.max_error_rate) >= math.log(1 / ALPHA):
        said = f"{candidate.errors} of its {candidate.requests} requests failed"
        return f"errors: {said}, more than max_error_rate {limits.max_error_rate:g} allows"
    for name, limit, new, old in _compared(candidate, active, limits):
        if _excess(new, old, limit) > 1:
            said = f"{ratio(new, old):.3g} times the active model's over {new.count} answers"
            return f"{name}: {said}, more than max_{name}_ratio {limit:g} allows"
    return None


def standing(candidate: Arm, active: Arm, limits: Limits) -> list[CanaryGuard]:
    """How near the candidate is to each limit that there is."""
    bet = evidence(candidate.errors, candidate.requests, limits.max_error_rate) / math.log(1 / ALPHA)
    share = candidate.errors / candidate.requests if candidate.requests else None
    guards = [CanaryGuard(guard="errors", value=share, limit=limits.max_error_rate, evidence=_within(bet))]
    for name, limit, new, old in _compared(candidate, active, limits):
        shown = _within(_excess(new, old, limit))
        guards.append(CanaryGuard(guard=name, value=ratio(new, old), limit=limit, evidence=shown))
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
