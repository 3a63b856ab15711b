"""How long a switch of a fleet takes and what it costs: control's own plan, members with given times and failures."""

import random
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.fleet.clock import Clock
from control.fleet.rollout_plan import (
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
    next_action,
    waves,
)
from stepserve.fleet import LOCAL_MEMBER, RolloutPolicy, Wave

ROW_S = 0.005  # control writes each step's row before it acts on it


@dataclass(frozen=True, slots=True)
class Times:
    """Of one member. `files_s`: to fetch the files when it alone does; `sharing`: of control's line, so that many wait
    for each other; `switch_s`: weights and proof, during which it answers nothing.
    """

    files_s: float = 20.0
    sharing: int = 4
    switch_s: float = 6.0
    spread: float = 0.3  # a member is slower or faster by up to so much


@dataclass
class Ended:
    """`out_s`: member-seconds in which a member answered no request for the active model: it was switched, or had been
    and waited for the commit. `held_s`: how long no member answered, so that requests were held.
    """

    phase: str
    total_s: float
    staged_s: float
    out_s: float
    held_s: float
    steps: int


class Simulation:
    """`fails`: the chance that a member's proof fails."""

    def __init__(self, count: int, wave: Wave, policy: RolloutPolicy, times: Times, fails: float, seed: int) -> None:
        self.clock = Clock()
        self._random = random.Random(seed)
        self._times, self._fails = times, fails
        names = [f"g{number:03}" for number in range(count)]
        place = {LOCAL_MEMBER: 0} | waves(names, wave)
        self._rollout = Rollout("staging", policy, tuple(Step(name, number) for name, number in place.items()))
        self._on_old = set(place)
        self._fetching = 0
        self._fetch_queue: list[str] = []
        self._since: dict[str, float] = {}
        self._out = Ended("", 0.0, 0.0, 0.0, 0.0, 0)
        self._empty_since: float | None = None

    def run(self) -> Ended:
        self._step()
        self.clock.run()
        return self._out

    def _step(self) -> None:
        """What control does next, by its plan."""
        action = next_action(self._rollout)
        match action:
            case Stage(members):
                for name in members:
                    self._set(name, "staging")
                    self._fetch_queue.append(name)
                self._fetch()
            case BeginCommits():
                self._out.staged_s = self.clock.now_s
                self._rollout = replace(self._rollout, phase="committing")
                self._out.steps += 1
                self._step()
            case Commit(members):
                for name in members:
                    self._set(name, "committing")
                    self._leaves_service(name)
                    self.clock.after(self._varied(self._times.switch_s), partial(self._switched, name))
            case Finish():
                self._end("committed")
            case RollBack():
                self._roll_back()
            case Over():
                pass

    def _fetch(self) -> None:
        while self._fetch_queue and self._fetching < self._times.sharing:
            self._fetching += 1
            self.clock.after(self._varied(self._times.files_s), partial(self._fetched, self._fetch_queue.pop(0)))

    def _fetched(self, name: str) -> None:
        self._fetching -= 1
        self._set(name, "staged")
        self._fetch()
        self._step_after("staging")

    def _switched(self, name: str) -> None:
        state: StepState = "failed" if self._random.random() < self._fails else "proved"
        self._set(name, state)
        self._step_after("committing")

    def _step_after(self, state: StepState) -> None:
        """Control waits for the whole wave, whatever became of one of it."""
        if all(step.state != state for step in self._rollout.steps):
            self._step()

    def _roll_back(self) -> None:
        """All that have switched, or tried to, go back at once."""
        self._rollout = replace(self._rollout, phase="rolling_back")
        changed = [step.member for step in self._rollout.steps if step.state in {"proved", "failed"}]
        self._out.steps += len(changed)
        longest = max((self._varied(self._times.switch_s) for _ in changed), default=0.0)
        self.clock.after(longest, partial(self._end, "rolled_back"))

    def _end(self, phase: Phase) -> None:
        self._out.out_s = sum(self.clock.now_s - since_s for since_s in self._since.values())
        if self._empty_since is not None:
            self._out.held_s += self.clock.now_s - self._empty_since
        self._rollout = replace(self._rollout, phase=phase)
        self._out.phase, self._out.total_s = phase, self.clock.now_s + ROW_S * self._out.steps

    def _leaves_service(self, name: str) -> None:
        self._since[name] = self.clock.now_s
        self._on_old.discard(name)
        if not self._on_old and self._empty_since is None:
            self._empty_since = self.clock.now_s

    def _set(self, name: str, state: StepState) -> None:
        self._out.steps += 1
        self._rollout = replace(
            self._rollout,
            steps=tuple(replace(each, state=state) if each.member == name else each for each in self._rollout.steps),
        )

    def _varied(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - self._times.spread, 1 + self._times.spread)
