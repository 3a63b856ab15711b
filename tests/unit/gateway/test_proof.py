import math

import pytest

from gateway.proof_difference import difference


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        (-1.0, -1.25, 0.25),
        (-30.0, -13.0, 0.0),
        (-30.0, -11.0, 1.0),
        (math.nan, -1.0, math.inf),
        (-1.0, -math.inf, math.inf),
    ],
)
def test_difference(found: float, expected: float, apart: float) -> None:
    assert difference(found, expected) == apart
