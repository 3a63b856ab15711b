"""What a rollout does next, and what is made of one whose process has ended."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.fleet.rollout_plan import (
    Action,
    BeginCommits,
    Commit,
    Finish,
    Over,
    Phase,
    RollBack,
    Rollout,
    Stage,
    Step,
    StepState,
    Wait,
    after_restart,
    next_action,
    obstacle,
    waves,
)
from stepserve.fleet import RolloutPolicy


def rollout(phase: Phase, *states: StepState, policy: RolloutPolicy = "all") -> Rollout:
    """Control's own gateway, and members m1, m2 … of a wave each."""
    names = ["local", *(f"m{number}" for number in range(1, len(states)))]
    steps = (Step(name, wave, state) for wave, (name, state) in enumerate(zip(names, states, strict=True)))
    return Rollout(phase, policy, tuple(steps))


@pytest.mark.parametrize(
    ("now", "action"),
    [
        (rollout("staging", "staged", "pending", "pending"), Stage(("m1", "m2"))),
        (rollout("staging", "staged", "staged", "staging"), Wait()),
        (rollout("staging", "staged", "staged", "staged"), BeginCommits()),
        (rollout("committing", "staged", "staged", "staged"), Commit(("local",))),
        (rollout("committing", "committing", "staged", "staged"), Wait()),
        (rollout("committing", "proved", "staged", "staged"), Commit(("m1",))),
        (rollout("committing", "proved", "proved", "committing"), Wait()),
        (rollout("committing", "proved", "proved", "staged"), Commit(("m2",))),
        (rollout("committing", "proved", "proved", "proved"), Finish()),
        (rollout("committing", "proved", "failed", "staged", policy="quorum"), Commit(("m2",))),
        (rollout("committing", "proved", "lost", "proved", policy="quorum"), Finish()),
        (rollout("staging", "staged", "failed", "pending", policy="quorum"), Stage(("m2",))),
        (rollout("committed", "proved", "proved"), Over()),
        (rollout("rolled_back", "proved", "failed"), Over()),
    ],
)
def test_the_next_step(now: Rollout, action: Action) -> None:
    assert next_action(now) == action


@pytest.mark.parametrize(
    "now",
    [
        rollout("staging", "staged", "failed", "pending"),
        rollout("committing", "failed", "staged"),
        rollout("committing", "proved", "lost", "staged"),
        rollout("committing", "proved", "failed", "proved"),
        rollout("committing", "failed", "staged", "staged", policy="quorum"),
        rollout("committing", "proved", "failed", policy="quorum"),
        rollout("committing", "proved", "failed", "lost", "proved", policy="quorum"),
        rollout("rolling_back", "proved", "failed"),
    ],
)
def test_what_takes_all_back(now: Rollout) -> None:
    assert isinstance(next_action(now), RollBack)
    assert isinstance(after_restart(now), RollBack)


def test_the_reason_names_who_and_why() -> None:
    now = rollout("committing", "proved", "proved", "failed")
    told = replace(now, steps=(*now.steps[:2], replace(now.steps[2], error="no memory")))
    assert obstacle(told) == "m2 failed: no memory"
    assert "1 of 3 gateways are not a majority" in str(
        obstacle(rollout("committing", "proved", "failed", "lost", policy="quorum"))
    )


@pytest.mark.parametrize(
    ("now", "action"),
    [
        (rollout("committing", "proved", "proved"), Finish()),
        (rollout("committing", "proved", "failed", "proved", policy="quorum"), Finish()),
        (rollout("committed", "proved"), Over()),
        (rollout("rolled_back", "failed"), Over()),
    ],
)
def test_after_a_restart_only_what_is_proved_everywhere_counts(now: Rollout, action: Action) -> None:
    assert after_restart(now) == action


@pytest.mark.parametrize("step", ["pending", "staging", "staged", "committing"])
@pytest.mark.parametrize("phase", ["staging", "committing"])
def test_after_a_restart_what_was_under_way_goes_back(phase: Phase, step: StepState) -> None:
    assert after_restart(rollout(phase, "proved", step)) == RollBack("control was restarted in the middle of it")


def test_waves() -> None:
    names = [f"m{number}" for number in range(8)]
    assert list(waves(names, "1").values()) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(waves(names, "25%").values()) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert set(waves(names, "all").values()) == {1}
    assert waves(["b", "a"], "25%") == {"a": 1, "b": 2}
    assert waves([], "all") == {}


def drive(policy: RolloutPolicy, wave: str, ends: list[StepState]) -> Iterator[Rollout]:
    """Every state of a rollout whose steps end as told, from its first to the one in which it is decided."""
    turns = waves([f"m{number}" for number in range(len(ends) - 1)], wave)  # type: ignore[arg-type]  # of Wave
    numbers = {"local": 0, **turns}
    fate = dict(zip(numbers, ends, strict=True))
    steps = tuple(Step(n, w, "staged" if n == "local" else "pending") for n, w in numbers.items())
    now = Rollout("staging", policy, steps)
    for _ in itertools.count():
        yield now
        match next_action(now):
            case Stage(names):
                now = replace(
                    now, steps=tuple(replace(s, state="staged") if s.member in names else s for s in now.steps)
                )
            case BeginCommits():
                now = replace(now, phase="committing")
            case Commit(names):
                now = replace(
                    now, steps=tuple(replace(s, state=fate[s.member]) if s.member in names else s for s in now.steps)
                )
            case _:
                return


@given(
    policy=st.sampled_from(get_args(RolloutPolicy)),
    wave=st.sampled_from(["1", "25%", "all"]),
    ends=st.lists(st.sampled_from(["proved", "proved", "failed", "lost"]), min_size=2, max_size=9),
)
def test_a_rollout_ends_and_commits_only_what_may_be_committed(
    policy: RolloutPolicy, wave: str, ends: list[StepState]
) -> None:
    states = list(drive(policy, wave, ends))
    last = states[-1]
    action = next_action(last)
    good = sum(end == "proved" for end in ends)
    if policy == "all":
        assert isinstance(action, Finish) == (good == len(ends))
    else:
        assert isinstance(action, Finish) == (ends[0] == "proved" and 2 * good > len(ends))
    assert isinstance(action, Finish | RollBack)
    for state in states:
        for step in state.steps:
            earlier = [each for each in state.steps if each.wave < step.wave]
            if step.state == "proved":
                assert all(each.state in {"proved", "failed", "lost"} for each in earlier), "waves go in turn"
