"""A server that fails is left alone for longer and longer, and tried by one request at a time."""

from gateway.upstream.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, THRESHOLD, Breaker


def failed(times: int, now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker.enter()
        breaker.fail(now_s)
    return breaker


def test_a_few_failures_change_nothing() -> None:
    assert failed(THRESHOLD - 1).admits(0.0)
    breaker = failed(THRESHOLD - 1)
    breaker.succeed()
    breaker.fail(0.0)
    assert breaker.admits(0.0)


def test_failures_in_a_row_open_it_for_a_pause() -> None:
    breaker = failed(THRESHOLD, 100.0)
    assert not breaker.admits(100.0)
    assert breaker.retry_in_s(100.0) == FIRST_PAUSE_S
    assert breaker.admits(100.0 + FIRST_PAUSE_S)


def test_after_the_pause_one_request_tries() -> None:
    breaker = failed(THRESHOLD)
    breaker.enter()
    assert not breaker.admits(FIRST_PAUSE_S)
    breaker.abandon()
    assert breaker.admits(FIRST_PAUSE_S)
    breaker.enter()
    breaker.succeed()
    assert breaker.admits(0.0)


def test_the_pause_grows_to_a_bound() -> None:
    breaker = failed(THRESHOLD)
    now_s, pauses = 0.0, []
    for _ in range(10):
        pauses.append(breaker.retry_in_s(now_s))
        now_s += pauses[-1]
        breaker.enter()
        breaker.fail(now_s)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
