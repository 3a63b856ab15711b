import pytest

from gateway.access.rates import wait_s


@pytest.mark.parametrize(
    ("limit", "used", "cost", "seconds"),
    [
        (60, 60, 1, 1.0),
        (60, 60, 30, 30.0),
        (60, 60, 60, 60.0),
        (60, 30, 45, 30.0),
        (60, 0, 1, 1.0),
        (1, 1, 1, 60.0),
        (10, 20, 10, 60.0),
    ],
)
def test_when_what_is_asked_fits_again(limit: int, used: int, cost: int, seconds: float) -> None:
    assert wait_s(limit, used, cost) == pytest.approx(seconds)
