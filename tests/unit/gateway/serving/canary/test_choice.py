"""Which requests a candidate gets."""

import pytest

from gateway.serving.canary.choice import takes_part, unit_of


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5])
def test_the_share_is_what_was_asked_for(share: float) -> None:
    count = 20_000
    chosen = sum(takes_part("job", str(number), share) for number in range(count))
    assert abs(chosen - share * count) < 5 * (count * share * (1 - share)) ** 0.5


def test_the_same_unit_goes_the_same_way_and_another_canary_draws_others() -> None:
    units = [str(number) for number in range(1000)]
    first = {unit for unit in units if takes_part("a", unit, 0.2)}
    assert first == {unit for unit in units if takes_part("a", unit, 0.2)}
    assert first != {unit for unit in units if takes_part("b", unit, 0.2)}
    assert first <= {unit for unit in units if takes_part("a", unit, 0.4)}, "a larger share keeps whom it had"


def test_all_and_none() -> None:
    assert all(takes_part("a", str(number), 1.0) for number in range(100))
    assert not any(takes_part("a", str(number), 0.0) for number in range(100))


SESSION = [(b"host", b"x"), (b"x-session-id", b"s1")]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (([], "k1", "r1", True), ([], "k1", "r2", True), True),
        (([], "k1", "r1", True), ([], "k2", "r1", True), False),
        (([], "k1", "r1", False), ([], "k1", "r2", False), False),
        (([], None, "r1", True), ([], None, "r2", True), False),
        (([], "anonymous", "r1", True), ([], "anonymous", "r2", True), False),
        ((SESSION, "k1", "r1", False), (SESSION, "k1", "r2", False), True),
        ((SESSION, "k1", "r1", True), ([], "k1", "r1", True), False),
        ((SESSION, "k1", "r1", True), (SESSION, "k2", "r1", True), False),
        ((SESSION, None, "r1", True), (SESSION, None, "r2", True), True),
        (([(b"x-session-id", b"")], "k1", "r1", True), ([], "k1", "r2", True), True),
    ],
)
def test_what_goes_together(
    left: tuple[list[tuple[bytes, bytes]], str | None, str, bool],
    right: tuple[list[tuple[bytes, bytes]], str | None, str, bool],
    same: bool,
) -> None:
    units = [unit_of(headers, key, request, by_key=by_key) for headers, key, request, by_key in (left, right)]
    assert (units[0] == units[1]) == same
