"""How evenly members are loaded: requests arrive at random, the gateway's own code says who gets each.

A member works on SEQUENCES requests at a time at TOKENS_PER_S each; the others wait in their order. How long an answer
will be, only the member knows: between a tenth and all of what the request allows.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from benchmarks.fleet.clock import Clock
from gateway.balancing.asked import Asked
from gateway.balancing.choice import hashed
from gateway.balancing.member import Member
from gateway.balancing.members import Members
from gateway.balancing.metrics import MemberLabels
from gateway.upstream.errors import UpstreamUnavailable
from stepserve.fleet import Committed, FleetMember, FleetView

Affinity = Literal["none", "session", "prefix", "shared prefix"]
Policy = Literal["stepserve", "random", "round robin", "fewest requests"]

SEQUENCES = 32
TOKENS_PER_S = 40.0
PREFILL_TOKENS_PER_S = 8000.0
UTILISATION = 0.75  # of what all members together can do
LEASE_S = 10.0
_WARM_S = 30.0
_SAMPLE_S = 0.5
_TURNS = 4  # of a session
_THINK_S = 2.0  # between an answer and the session's next request
_PREFIXES = 2000
_MODEL = Committed(model="m", digest="sha256:0")


@dataclass
class Machine:
    """A member as it works. `dead`: it refuses connections."""

    member: Member
    dead: bool = False
    running: int = 0
    waiting: deque["Work"] = field(default_factory=deque)
    inside: set["Work"] = field(default_factory=set)


@dataclass(eq=False)
class Work:
    asked: Asked
    prompt_tokens: int
    answer_tokens: int
    arrived_s: float
    turns_left: int = 0
    tried: list[Member] = field(default_factory=list)
    holding: AbstractContextManager[None] | None = None
    ended: bool = False

    @property
    def service_s(self) -> float:
        return self.prompt_tokens / PREFILL_TOKENS_PER_S + self.answer_tokens / TOKENS_PER_S


@dataclass
class Outcome:
    """Of one run. `unevenness`: the 99th percentile over members and moments of outstanding work, over its mean."""

    unevenness: float
    worst: float
    wait_p99_s: float
    choose_us: float
    answered: int
    retried: int
    failed: int
    moved_sessions: int


class Fleet:
    """`killed`: so many members die, each at a moment of its own; control notices after the lease."""

    def __init__(self, count: int, affinity: Affinity, policy: Policy, seconds: float, killed: int, seed: int) -> None:
        self.clock = Clock()
        self._random = random.Random(seed)
        self._affinity, self._policy, self._seconds = affinity, policy, seconds
        self._members = Members(lambda: None, clock=self.clock, labels=MemberLabels(most=0))
        self._lost: set[str] = set()
        self._names = [f"g{number:03}" for number in range(count)]
        self._show()
        self._machines = {each: Machine(each) for each in self._members.all.values()}
        self._turn = 0
        self._ratios: list[float] = []
        self._waits: list[float] = []
        self._choosing_s, self._choices = 0.0, 0
        self._outcome = Outcome(0, 0, 0, 0, 0, 0, 0, 0)
        self._homes: dict[int, Member] = {}
        for name in self._random.sample(self._names, killed):
            self.clock.after(_WARM_S + self._random.random() * seconds, partial(self._kill, name))

    def run(self) -> Outcome:
        self._arrive()
        self.clock.after(_WARM_S, self._sample)
        self.clock.run(_WARM_S + self._seconds)
        out = self._outcome
        ratios = sorted(self._ratios)
        out.unevenness, out.worst = ratios[int(0.99 * (len(ratios) - 1))], ratios[-1]
        out.wait_p99_s = sorted(self._waits)[int(0.99 * (len(self._waits) - 1))]
        out.choose_us = self._choosing_s / max(1, self._choices) * 1e6
        return out

    def _show(self) -> None:
        entries = [
            FleetMember(
                id=name, url=f"http://{name}", state="lost" if name in self._lost else "ready", model="m",
                digest="sha256:0", heartbeat_age_s=0.0, stepserve_version="0",
            )
            for name in self._names
        ]  # fmt: skip
        self._members.put(FleetView(gateways=entries, committed=_MODEL, lease_s=LEASE_S))

    def _arrive(self) -> None:
        """One request or session, and the time of the next."""
        mean_s = 0.55 * 300 / TOKENS_PER_S + 500 / PREFILL_TOKENS_PER_S  # of _work's distributions
        rate = UTILISATION * len(self._names) * SEQUENCES / mean_s
        turns = 1
        if self._affinity == "session":
            turns = _TURNS
            rate /= turns
        session = self._random.getrandbits(64) if self._affinity == "session" else None
        self._place(self._work(session, turns - 1))
        self.clock.after(self._random.expovariate(rate), self._arrive)

    def _work(self, session: int | None, turns_left: int) -> Work:
        prompt = max(1, round(self._random.expovariate(1 / 500)))
        most = max(10, round(self._random.expovariate(1 / 300)))
        answer = max(1, round(most * self._random.uniform(0.1, 1.0)))
        prefix = None
        if self._affinity == "prefix":  # some conversations are long, most are not
            prefix = hashed(str(int(self._random.paretovariate(1.2)) % _PREFIXES).encode())
        elif self._affinity == "shared prefix":
            prefix = 1
        asked = Asked("m", prompt + most, session=session, prefix=prefix)
        return Work(asked, prompt, answer, self.clock.now_s, turns_left)

    def _place(self, work: Work) -> None:
        member = self._choose(work)
        if member is None:
            self._outcome.failed += 1
            return
        machine = self._machines[member]
        if machine.dead:
            self._again(work, member)
            return
        if work.asked.session is not None:
            self._outcome.moved_sessions += self._homes.get(work.asked.session, member) is not member
            self._homes[work.asked.session] = member
        work.holding = member.working(work.asked.tokens)
        work.holding.__enter__()
        machine.inside.add(work)
        machine.waiting.append(work)
        self._start(machine)

    def _choose(self, work: Work) -> Member | None:
        started = time.process_time()
        try:
            return _POLICIES[self._policy](self, work)
        except UpstreamUnavailable:
            return None
        finally:
            self._choosing_s += time.process_time() - started
            self._choices += 1

    def _stepserve(self, work: Work) -> Member | None:
        return self._members.choose(work.asked, work.tried)

    def _at_random(self, work: Work) -> Member | None:
        return self._random.choice(self._others(work))

    def _in_turn(self, work: Work) -> Member | None:
        self._turn += 1
        there = self._others(work)
        return there[self._turn % len(there)]

    def _fewest(self, work: Work) -> Member | None:
        return min(self._others(work), key=lambda each: (len(self._machines[each].inside), each.last_turn))

    def _others(self, work: Work) -> list[Member]:
        return [each for each in self._machines if each.entry.state == "ready" and each not in work.tried]

    def _start(self, machine: Machine) -> None:
        while machine.running < SEQUENCES and machine.waiting:
            work = machine.waiting.popleft()
            machine.running += 1
            if self.clock.now_s > _WARM_S:
                self._waits.append(self.clock.now_s - work.arrived_s)
            self.clock.after(work.service_s, partial(self._end, machine, work))

    def _end(self, machine: Machine, work: Work) -> None:
        if machine.dead or work.ended:
            return
        self._leave(machine, work)
        machine.running -= 1
        machine.member.breaker.succeed()
        self._outcome.answered += 1
        if work.turns_left:
            again = self._work(work.asked.session, work.turns_left - 1)
            self.clock.after(self._random.expovariate(1 / _THINK_S), partial(self._ask_later, again))
        self._start(machine)

    def _ask_later(self, work: Work) -> None:
        work.arrived_s = self.clock.now_s
        self._place(work)

    def _leave(self, machine: Machine, work: Work) -> None:
        work.ended = True
        machine.inside.discard(work)
        if work.holding is not None:
            work.holding.__exit__(None, None, None)

    def _kill(self, name: str) -> None:
        """Everything inside is asked elsewhere: none of it is streamed here."""
        machine = next(each for each in self._machines.values() if each.member.entry.id == name)
        machine.dead = True
        for work in list(machine.inside):
            self._leave(machine, work)
            self._again(
                Work(work.asked, work.prompt_tokens, work.answer_tokens, work.arrived_s, work.turns_left),
                machine.member,
            )
        self.clock.after(LEASE_S, partial(self._notice, name))

    def _notice(self, name: str) -> None:
        self._lost.add(name)
        self._show()

    def _again(self, work: Work, member: Member) -> None:
        member.breaker.enter()
        member.breaker.fail(self.clock.now_s)
        work.tried.append(member)
        if len(work.tried) >= 3:
            self._outcome.failed += 1
            return
        self._outcome.retried += 1
        self._place(work)

    def _sample(self) -> None:
        loads = [each.outstanding_tokens for each, machine in self._machines.items() if not machine.dead]
        mean = sum(loads) / len(loads)
        self._ratios.extend(load / mean for load in loads)
        self.clock.after(_SAMPLE_S, self._sample)


_POLICIES: dict[Policy, Callable[[Fleet, Work], Member | None]] = {
    "stepserve": Fleet._stepserve,
    "random": Fleet._at_random,
    "round robin": Fleet._in_turn,
    "fewest requests": Fleet._fewest,
}
