"""What a member is, from what is known of it."""

from dataclasses import replace

import pytest

from control.fleet.states import Facts, state_of
from stepserve.fleet import Committed, MemberState

A = Committed(model="a", digest="sha256:aa")
B = Committed(model="b", digest="sha256:bb")
LEASE_S = 10.0
READY = Facts(silent_s=1.0, serving=True, serves=A)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (READY, "ready"),
        (replace(READY, silent_s=9.99), "ready"),
        (replace(READY, silent_s=10.0), "lost"),
        (replace(READY, left=True), "lost"),
        (replace(READY, silent_s=11.0, hold="cordon"), "lost"),
        (replace(READY, hold="cordon"), "cordoned"),
        (replace(READY, hold="cordon", in_flight=3), "cordoned"),
        (replace(READY, hold="drain", in_flight=3), "draining"),
        (replace(READY, hold="drain"), "cordoned"),
        (replace(READY, hold="cordon", in_turn=True), "cordoned"),
        (replace(READY, in_turn=True), "switching"),
        (replace(READY, serves=B), "joining"),
        (replace(READY, serves=B, target=B), "ready"),
        (replace(READY, serves=A, target=B), "ready"),
        (replace(READY, serves=None), "joining"),
        (replace(READY, serving=False), "joining"),
    ],
)
def test_the_state_follows_from_the_facts(facts: Facts, state: MemberState) -> None:
    assert state_of(facts, A, LEASE_S)[0] == state


def test_weights_that_are_being_pushed_are_kept_from_clients_until_they_are_committed() -> None:
    early = Committed(model="a", digest="sha256:cc", version=1)
    proved = replace(READY, serves=early, target=early)
    assert state_of(proved, A, LEASE_S)[0] == "switching"
    assert state_of(proved, early, LEASE_S)[0] == "ready"


def test_weights_that_were_pushed_there_are_not_what_is_committed() -> None:
    pushed = replace(READY, serves=Committed(model="a", digest="sha256:cc", version=1))
    assert state_of(pushed, A, LEASE_S)[0] == "joining"


def test_why_it_is_not_ready_is_said() -> None:
    assert state_of(READY, A, LEASE_S)[1] is None
    assert state_of(replace(READY, left=True), A, LEASE_S)[1] == "it was stopped"
    assert state_of(replace(READY, silent_s=60.0), A, LEASE_S)[1] == "it has said nothing for 10 s"
    assert state_of(replace(READY, hold="cordon", hold_reason="rollout 3: no"), A, LEASE_S)[1] == "rollout 3: no"
    assert state_of(replace(READY, serves=None, trouble="the disk is full"), A, LEASE_S)[1] == "the disk is full"
    assert state_of(replace(READY, serving=False), A, LEASE_S)[1] == "its engine takes no requests now"
    assert "no model is active" in str(state_of(READY, None, LEASE_S)[1])
