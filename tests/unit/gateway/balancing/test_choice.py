from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.balancing.choice import BOUND, Sessions, hashed, least_busy, preferred, within_bound


@dataclass
class Node:
    name: str
    outstanding_tokens: int = 0
    last_turn: int = -1

    @property
    def seed(self) -> int:
        return hashed(self.name.encode())


def nodes(*loads: int) -> list[Node]:
    return [Node(f"n{number}", load) for number, load in enumerate(loads)]


LOADS = st.lists(st.integers(0, 10**6), min_size=1, max_size=12)
KEYS = st.integers(0, 2**64 - 1)
quick = settings(max_examples=200, deadline=None)


def test_the_least_work_then_the_longest_wait() -> None:
    one, other, third = nodes(5, 3, 3)
    other.last_turn, third.last_turn = 8, 7
    assert least_busy([one, other, third]) is third


@quick
@given(LOADS, KEYS, st.integers(1, 10**6))
def test_the_bound_holds(loads: list[int], key: int, tokens: int) -> None:
    members = nodes(*loads)
    chosen = within_bound(members, key, tokens)
    assert chosen.outstanding_tokens <= BOUND * (sum(loads) + tokens) / len(loads)


@quick
@given(st.integers(2, 12), KEYS, st.data())
def test_only_the_keys_of_a_member_that_left_go_elsewhere(count: int, key: int, data: st.DataObject) -> None:
    members = nodes(*[0] * count)
    before = preferred(members, key)
    gone = data.draw(st.sampled_from(members))
    after = preferred([each for each in members if each is not gone], key)
    assert (after is before) == (gone is not before)


def test_keys_are_spread_evenly() -> None:
    members = nodes(*[0] * 8)
    counts = Counter(preferred(members, hashed(str(number).encode())).name for number in range(8000))
    assert len(counts) == 8
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_a_prefix_that_all_share_spills_over_at_the_bound() -> None:
    members = nodes(*[0] * 10)
    for _ in range(1000):
        within_bound(members, 1, 10).outstanding_tokens += 10
    assert max(each.outstanding_tokens for each in members) <= BOUND * 1000 + 10


@quick
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**5)), max_size=60), st.data())
def test_a_session_moves_only_when_its_member_goes(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    members, sessions = nodes(*[0] * 5), Sessions()
    places: dict[int, Node] = {}
    for session, tokens in steps:
        there = data.draw(st.lists(st.sampled_from(members), min_size=1, unique_by=lambda each: each.name))
        chosen = sessions.choose(there, session, tokens)
        assert chosen in there
        if session in places and places[session] in there:
            assert chosen is places[session]
        places[session] = chosen
        chosen.outstanding_tokens += tokens


def test_only_so_many_sessions_are_remembered() -> None:
    members, sessions = nodes(0, 0, 0), Sessions(most=2)
    first = sessions.choose(members, 1, 1)
    first.outstanding_tokens = 100  # where a new session would not go
    assert sessions.choose(members, 1, 1) is first
    for other in (2, 3):
        sessions.choose(members, other, 1)
    assert sessions.choose(members, 1, 1) is not first


@pytest.mark.parametrize("count", [1, 2, 200])
def test_a_key_leads_to_the_same_member_in_any_order(count: int) -> None:
    members = nodes(*[0] * count)
    assert within_bound(members, 42, 7) is within_bound(members[::-1], 42, 7)
