"""The simulation of benchmarks/fleet: how even the choice is over thousands of requests, and what a death costs."""

import pytest

from benchmarks.fleet.balancing import Affinity, Fleet
from benchmarks.fleet.rollout import Simulation, Times
from gateway.balancing.choice import BOUND


@pytest.mark.parametrize(("affinity", "most"), [("none", 1.15), ("shared prefix", BOUND + 0.2)])
def test_work_is_even(affinity: Affinity, most: float) -> None:
    """The bound is on what a member had before a request that it got, so it may be exceeded by that one."""
    out = Fleet(8, affinity, "stepserve", seconds=10, killed=0, seed=3).run()
    assert out.answered > 500
    assert out.unevenness < most
    assert out.failed == out.retried == 0


def test_two_members_of_ten_die_and_every_request_is_answered() -> None:
    out = Fleet(10, "none", "stepserve", seconds=20, killed=2, seed=3).run()
    assert out.retried > 10
    assert out.failed == 0


def test_a_rollout_in_one_wave_holds_requests_for_one_switch() -> None:
    end = Simulation(20, "all", "all", Times(switch_s=6.0, spread=0.0), fails=0.0, seed=1).run()
    assert end.phase == "committed"
    assert end.held_s == pytest.approx(6.0)


def test_a_proof_that_fails_brings_all_back() -> None:
    assert Simulation(5, "25%", "all", Times(), fails=1.0, seed=1).run().phase == "rolled_back"
