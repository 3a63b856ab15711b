"""Samples of what was served: what two reports come to, what samples come to together."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from control.telemetry.samples import Sample, first_token_s, merged, sample_of, shown, thinned
from stepserve.contract import EngineDeath
from stepserve.serving_report import ServingReport

AT = datetime(2026, 1, 1, tzinfo=UTC)
DEATH = EngineDeath(number=1, model_id="a", active=True, at=AT.isoformat())


def report(**changes: Any) -> ServingReport:
    whole: dict[str, Any] = {
        "boot_id": "1", "active": "a", "version": 0, "requests": 10, "running": 1, "waiting": 0, "tokens": {"a": 100},
        "first_token_bounds_s": [0.1, 1.0], "first_token_counts": [5, 1, 0], "deaths": [],
    }  # fmt: skip
    return ServingReport(**whole | changes)


def between(before: ServingReport | None, now: ServingReport | None) -> Sample:
    return sample_of(AT, 2.0, before, now, None, [])


def test_two_reports_come_to_rates() -> None:
    later = report(requests=30, tokens={"a": 140, "b": 6}, first_token_counts=[15, 11, 0])
    told = shown(between(report(), later))
    assert told["requests_per_s"] == 10
    assert told["tokens_per_s"] == {"a": 20, "b": 3}
    assert told["first_token_p50_s"] == pytest.approx(0.1)
    assert told["first_token_p99_s"] == pytest.approx(0.1 + 0.9 * 0.98)


def test_a_gateway_that_started_anew_or_is_away_counts_nothing() -> None:
    assert shown(between(report(), report(boot_id="2", requests=3)))["requests_per_s"] is None
    away = between(report(), None)
    assert (away.requests, away.running) == (None, None)


def test_a_death_and_a_push_are_marked_once() -> None:
    sample = between(report(), report(version=3, deaths=[DEATH]))
    assert [(mark.kind, mark.model, mark.said) for mark in sample.marks] == [
        ("death", "a", None),
        ("push", "a", "version 3"),
    ]
    assert not between(report(version=3, deaths=[DEATH]), report(version=3, deaths=[DEATH])).marks
    assert not between(report(version=3), report(version=0)).marks, "a switch back to files is no push"


def test_samples_add_up_and_peaks_of_waiting_stay() -> None:
    one = Sample(at=AT, span_s=1, requests=4, running=2, waiting=0, tokens={"a": 8}, first_tokens={"0.1": 1})
    gap = Sample(at=AT + timedelta(seconds=1), span_s=1)
    two = Sample(at=AT + timedelta(seconds=2), span_s=2, requests=0, running=0, waiting=7, first_tokens={"inf": 3})
    whole = merged([one, gap, two])
    assert (whole.at, whole.span_s, whole.requests, whole.running, whole.waiting) == (AT, 4, 4, 1, 7)
    assert whole.first_tokens == {"0.1": 1, "inf": 3}
    assert merged([gap]).requests is None, "nothing is known, which is not nothing"


def test_thinned_keeps_gaps_as_gaps() -> None:
    samples = [Sample(at=AT + timedelta(seconds=second), span_s=1, requests=1) for second in (0, 1, 2, 11)]
    assert [(sample.at.second, sample.requests) for sample in thinned(samples, 5.0)] == [(0, 3), (11, 1)]


def test_quantiles_of_nothing_and_beyond_the_last_bound() -> None:
    assert first_token_s({}, 0.5) is None
    assert first_token_s({"0.1": 0, "1.0": 0, "inf": 4}, 0.5) == 1.0
