"""What a rollout does next: a pure decision over its rows and who of its members is alive.

    staging ──all staged──► committing ──a wave after another, each proved──► committed
       └──────────a failure, a lost member (policy all), no majority (quorum)──► rolling_back ──► rolled_back

A member that failed is left behind under `quorum` as long as a majority of all goes on. The driver (control.fleet.
rollouts) writes each change to its row before it acts on it, so that this decides the same after a restart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stepserve.fleet import RolloutPolicy, Wave

Phase = Literal["staging", "committing", "rolling_back", "committed", "rolled_back"]
StepState = Literal["pending", "staging", "staged", "committing", "proved", "failed", "lost"]

BAD: frozenset[StepState] = frozenset({"failed", "lost"})


@dataclass(frozen=True, slots=True)
class Step:
    """One member's. Wave 0 is control's own gateway, whose failure is the rollout's under any policy."""

    member: str
    wave: int
    state: StepState = "pending"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    phase: Phase
    policy: RolloutPolicy
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """Have these members get the files, all at once."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BeginCommits:
    """All have the files: from here on members serve the new model, wave by wave."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Have these members switch, all at once, each with its own proof."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """All that count serve it, proved: make it the active model."""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Bring all to what was committed before."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """For what is under way."""


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is left to do."""


Action = Stage | BeginCommits | Commit | Finish | RollBack | Wait | Over


def next_action(rollout: Rollout) -> Action:
    """What the rollout does next while the process that runs it lives."""
    if rollout.phase in {"committed", "rolled_back"}:
        return Over()
    if rollout.phase == "rolling_back":
        return RollBack(obstacle(rollout) or "it was rolling back")
    if (reason := obstacle(rollout)) is not None:
        return RollBack(reason)
    good = [step for step in rollout.steps if step.state not in BAD]
    if rollout.phase == "staging":
        return _staging(good)
    return _committing(good)


def after_restart(rollout: Rollout) -> Action:
    """What is to be made of a rollout whose process has ended: only one that had been proved everywhere is finished.

    A step that was under way may have ended either way, so nothing is concluded from it.
    """
    if rollout.phase in {"committed", "rolled_back"}:
        return Over()
    good = [step for step in rollout.steps if step.state not in BAD]
    if rollout.phase == "committing" and obstacle(rollout) is None and all(step.state == "proved" for step in good):
        return Finish()
    return RollBack(obstacle(rollout) or "control was restarted in the middle of it")


def obstacle(rollout: Rollout) -> str | None:
    """Why it cannot end well any more."""
    bad = [step for step in rollout.steps if step.state in BAD]
    if not bad:
        return None
    told = "; ".join(f"{step.member} {step.state}: {step.error or 'it is not known why'}" for step in bad)
    if rollout.policy == "all" or any(step.wave == 0 for step in bad):
        return told
    good = len(rollout.steps) - len(bad)
    if 2 * good <= len(rollout.steps):
        return f"{good} of {len(rollout.steps)} gateways are not a majority ({told})"
    return None


def waves(members: Iterable[str], wave: Wave) -> dict[str, int]:
    """In which wave each member switches; wave 0 is control's own gateway's, so they begin with 1."""
    names: Sequence[str] = sorted(members)
    size = {"1": 1, "25%": math.ceil(len(names) / 4), "all": len(names)}[wave]
    return {name: 1 + place // max(size, 1) for place, name in enumerate(names)}


def _staging(good: list[Step]) -> Action:
    if pending := tuple(step.member for step in good if step.state == "pending"):
        return Stage(pending)
    return Wait() if any(step.state == "staging" for step in good) else BeginCommits()


def _committing(good: list[Step]) -> Action:
    left = [step for step in good if step.state != "proved"]
    if not left:
        return Finish()
    wave = min(step.wave for step in left)
    if any(step.state == "committing" for step in left):
        return Wait()
    return Commit(tuple(step.member for step in left if step.wave == wave))
