"""Which grammars end when a step's grammars take too long."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    from gateway.engine.patches.grammar_budget import judge


def _ended(*spent_s: float) -> list[bool]:
    """Of requests whose grammars took so long in a step."""
    structured: list[Any] = [SimpleNamespace(grammar=SimpleNamespace(stepserve_s=each)) for each in spent_s]
    judge(structured)
    assert all(each.grammar.stepserve_s == 0.0 for each in structured), "the next step counts anew"
    return [getattr(each, "stepserve_too_slow", False) for each in structured]


@pytest.mark.parametrize(
    ("spent_s", "ended"),
    [
        ((), []),
        ((0.08, 0.015), [False, False]),
        ((0.0002,) * 256, [False] * 256),
        ((0.3,), [True]),
        ((0.001, 0.3, 0.002), [False, True, False]),
        ((0.08, 0.07, 0.02), [True, False, False]),
        ((0.08, 0.08, 0.08), [True, True, False]),
        ((0.009,) * 100, [False] * 100),
    ],
)
def test_the_slowest_end_until_the_others_fit_into_a_step(spent_s: tuple[float, ...], ended: list[bool]) -> None:
    assert _ended(*spent_s) == ended
