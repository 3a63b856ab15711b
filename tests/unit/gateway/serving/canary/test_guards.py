"""When a canary is over its limits: at once where it is plain, and hardly ever where it is not."""

import math
import random

import pytest

from gateway.serving.canary.guards import ALPHA, Arm, Judged, Limits, breach, drop_evidence, evidence, standing

HEALTHY = Limits(max_error_rate=0.02, max_latency_ratio=1.5, max_tokens_ratio=2.0)


def arm(answers: int, errors: int = 0, latency_s: float = 1.0, tokens: int = 10) -> Arm:
    """Latencies and lengths are spread by a third around their means."""
    found = Arm()
    for number in range(answers):
        spread = 0.75 + 0.5 * (number % 3) / 2
        found.answered(latency_s * spread, int(tokens * spread))
    for _ in range(errors):
        found.failed()
    return found


@pytest.mark.parametrize(
    ("candidate", "active", "limit"),
    [
        (arm(0), arm(0), None),
        (arm(0), arm(1000), None),
        (arm(1000), arm(1000), None),
        (arm(0, 1), arm(1000), None),
        (arm(0, 3), arm(1000), "errors"),
        (arm(10, 10), arm(1000), "errors"),
        (arm(990, 10), arm(1000), None),
        (arm(900, 100), arm(1000), "errors"),
        (arm(500, latency_s=1.4), arm(1000), None),
        (arm(500, latency_s=3.0), arm(1000), "latency"),
        (arm(19, latency_s=9.0), arm(1000), None),
        (arm(500, latency_s=3.0), arm(19), None),
        (arm(500, tokens=15), arm(1000), None),
        (arm(500, tokens=50), arm(1000), "tokens"),
        (arm(500, tokens=0), arm(1000), None),
    ],
)
def test_the_limits(candidate: Arm, active: Arm, limit: str | None) -> None:
    found = breach(candidate, active, HEALTHY)
    assert (found and found.partition(":")[0]) == limit, found


def near(candidate: Arm, active: Arm, limits: Limits = HEALTHY) -> dict[str, tuple[float | None, float]]:
    return {one.guard: (one.value, one.evidence) for one in standing(candidate, active, limits)}


def test_how_near_each_limit_is() -> None:
    assert near(arm(0), arm(0)) == {"errors": (None, 0), "latency": (None, 0), "tokens": (None, 0)}
    assert near(arm(9), arm(9), Limits(max_error_rate=0.02)) == {"errors": (0, 0)}, "what has no limit is left out"
    fine = near(arm(500, latency_s=1.4), arm(1000))
    assert fine["latency"][0] == pytest.approx(1.4, rel=0.01)
    assert fine["latency"][1] == 0
    some = near(arm(40, errors=4, latency_s=1.8), arm(40))
    assert some["latency"][0] == pytest.approx(1.8, rel=0.01)
    assert 0 < some["errors"][1] < 1
    assert 0 < some["latency"][1] < 1
    assert near(arm(19, latency_s=9.0), arm(1000))["latency"][1] == 0, "too few to judge"


@pytest.mark.parametrize("errors", range(12))
@pytest.mark.parametrize("latency_s", [1.0, 1.6, 1.8, 3.0])
def test_a_limit_is_breached_just_when_its_evidence_is_all_there(errors: int, latency_s: float) -> None:
    candidate, active = arm(60, errors, latency_s), arm(60)
    whole = [one.guard for one in standing(candidate, active, HEALTHY) if one.evidence == 1]
    found = breach(candidate, active, HEALTHY)
    assert (found and found.partition(":")[0]) == (whole[0] if whole else None)


def test_no_error_is_allowed_where_the_limit_is_none() -> None:
    limits = Limits(max_error_rate=0.0)
    assert breach(arm(1000), arm(1000), limits) is None
    assert breach(arm(1000, 1), arm(1000), limits) == (
        "errors: 1 of its 1001 requests failed, more than max_error_rate 0 allows"
    )


def test_what_has_no_limit_is_not_looked_at() -> None:
    assert breach(arm(500, latency_s=90.0, tokens=900), arm(500), Limits(max_error_rate=0.01)) is None


def stopped(rate: float, limit: float, draws: random.Random, length: int) -> int | None:
    """After how many requests; None: not within `length`. Looked at after each."""
    errors = 0
    for number in range(1, length + 1):
        errors += draws.random() < rate
        if evidence(errors, number, limit) >= math.log(1 / ALPHA):
            return number
    return None


def test_a_candidate_at_its_limit_is_seldom_stopped_however_often_one_looks() -> None:
    draws = random.Random(7)
    false = sum(stopped(0.02, 0.02, draws, 1000) is not None for _ in range(500))
    assert false <= 500 * ALPHA + 3 * (500 * ALPHA) ** 0.5


@pytest.mark.parametrize(("rate", "most"), [(1.0, 3), (0.5, 15), (0.1, 150)])
def test_a_broken_candidate_is_stopped_soon(rate: float, most: int) -> None:
    draws = random.Random(7)
    after = sorted(stopped(rate, 0.02, draws, 5000) or 10**9 for _ in range(101))
    assert after[50] <= most


DROP = Limits(max_error_rate=0.02, max_drop=0.1)


def verdicts(pairs: list[tuple[bool, bool]]) -> Judged:
    """Of candidate and active model."""
    judged = Judged()
    for new, old in pairs:
        judged.add(new, old)
    return judged


def judged_after(new: float, old: float, draws: random.Random, length: int) -> int | None:
    """After how many pairs a judge's verdicts end it; None: not within `length`. Looked at after each."""
    judged = Judged()
    for number in range(1, length + 1):
        judged.add(draws.random() < new, draws.random() < old)
        if breach(arm(0), arm(0), DROP, judged) is not None:
            return number
    return None


def test_a_drop_that_is_allowed_seldom_ends_it_however_often_one_looks() -> None:
    draws = random.Random(7)
    for new, old in ((0.8, 0.9), (0.5, 0.6), (0.0, 0.1)):
        false = sum(judged_after(new, old, draws, 400) is not None for _ in range(400))
        assert false <= 400 * ALPHA + 3 * (400 * ALPHA) ** 0.5, (new, old)


@pytest.mark.parametrize(("new", "old", "most"), [(0.0, 1.0, 15), (0.3, 0.9, 40), (0.5, 0.9, 90), (0.6, 0.8, 900)])
def test_a_candidate_whose_answers_are_bad_is_stopped_soon(new: float, old: float, most: int) -> None:
    draws = random.Random(7)
    after = sorted(judged_after(new, old, draws, 3000) or 10**9 for _ in range(51))
    assert after[25] <= most


def test_verdicts_are_told_and_end_it_just_when_their_evidence_is_all_there() -> None:
    assert near(arm(5), arm(5), DROP) == {"errors": (0, 0)}, "without a judge there is nothing to tell"
    none = standing(arm(5), arm(5), DROP, Judged())[-1]
    assert (none.guard, none.value, none.limit, none.evidence) == ("judge", None, 0.1, 0)
    some = verdicts([(False, True)] * 4 + [(True, True)] * 2)
    told = standing(arm(5), arm(5), DROP, some)[-1]
    assert told.value == pytest.approx(4 / 6)
    assert 0 < told.evidence < 1
    assert breach(arm(5), arm(5), DROP, some) is None
    plain = verdicts([(False, True)] * 20)
    assert standing(arm(5), arm(5), DROP, plain)[-1].evidence == 1
    assert breach(arm(5), arm(5), DROP, plain) == (
        "judge: 0 of its 20 answers are good, 20 of the active model's, a larger drop than judge.max_drop 0.1 allows"
    )
    assert breach(arm(5), arm(5), DROP, verdicts([(False, False)] * 500)) is None, "a judge may be harsh on both"


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.9])
def test_a_bet_on_a_drop_has_no_tendency_to_grow_at_the_limit(limit: float) -> None:
    """The mean capital after a pair, where the drop is the limit, is 1."""
    for same in (0.0, 0.1 * (1 - limit)):
        worse = limit + (1 - limit - same) / 2
        chances = [(worse, Judged(1, worse=1)), (same, Judged(1)), (1 - same - worse, Judged(1, better=1))]
        mean = sum(chance * math.exp(drop_evidence(judged, limit)) for chance, judged in chances)
        assert mean == pytest.approx(1)
