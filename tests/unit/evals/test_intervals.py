import math

import pytest

from evals.intervals import mean_error, standard_error, wilson_95


# Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_95(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_exactly_at_none_and_all() -> None:
    assert wilson_95(0, 7)[0] == 0.0
    assert wilson_95(7, 7)[1] == 1.0


def test_wilson_is_symmetric() -> None:
    low, high = wilson_95(3, 10)
    mirrored_low, mirrored_high = wilson_95(7, 10)
    assert (1 - high, 1 - low) == pytest.approx((mirrored_low, mirrored_high))


def test_standard_error_of_a_half() -> None:
    assert standard_error(50, 100) == pytest.approx(0.05)
    assert standard_error(0, 100) == 0.0
    assert math.isclose(standard_error(1, 4), math.sqrt(3) / 8)


def test_one_value_has_a_mean_and_no_error() -> None:
    assert mean_error([0.25]) == (0.25, None)
    assert mean_error([1.0, 3.0]) == (2.0, 1.0)
