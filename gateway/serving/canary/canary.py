"""The canary that runs now, if one does: whom its candidate answers, how that goes, and how it ended."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.access.meter import Meter
from gateway.errors import CanaryRunning
from gateway.http.asgi import Message
from gateway.http.tracked_send import TrackedSend
from gateway.serving.canary.choice import takes_part, unit_of
from gateway.serving.canary.guards import Arm, Judged, Limits, breach, ratio, standing, too_few
from gateway.serving.canary.judging import LONGEST_BYTES, Judging, Taken
from gateway.serving.canary.shadow import Answered, Shadows
from stepserve.canary import CanaryArm, CanaryOrder, CanaryReport, CanaryState, CanaryVerdicts
from stepserve.contract import ModelRef

_SHOWN: frozenset[CanaryState] = frozenset({"passed", "undecided", "breached"})
LEASE_S = 30.0
"""A canary that nobody has asked after for so long is over: whoever ordered it may be gone."""


@dataclass(slots=True)
class _Run:
    """`judging`: None where no judge was asked for."""

    order: CanaryOrder
    judging: Judging | None
    began_s: float
    asked_s: float
    state: CanaryState = "running"
    reason: str | None = None
    ended_s: float | None = None
    candidate: Arm = field(default_factory=Arm)
    active: Arm = field(default_factory=Arm)
    compared: int = 0
    same: int = 0
    is_missed: bool = False  # lost for want of its candidate, which whoever ordered it has not been told yet

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def limits(self) -> Limits:
        order = self.order
        max_drop = None if order.judge is None else order.judge.max_drop
        return Limits(order.max_error_rate, order.max_latency_ratio, order.max_tokens_ratio, max_drop)

    @property
    def judged(self) -> Judged | None:
        return None if self.judging is None else self.judging.judged


class Canary:
    """One at a time. Every method that changes something is a step without an `await`. `shadows` asks the candidate
    what nobody waits for; None: nobody can.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.shadows: Shadows | None = None
        self._clock = clock
        self._run: _Run | None = None
        self._taken = asyncio.Event()

    def order(self, order: CanaryOrder) -> CanaryReport:
        """Begins it. The same order again asks after it, which keeps it going; one that was lost begins again. That its
        candidate is not loaded any more is told once before that, so that it can be.

        Raises CanaryRunning while another one runs.
        """
        now = self._clock()
        self._look(now)
        run = self._run
        if run is not None and run.order.id != order.id and run.is_running:
            raise CanaryRunning(run.order.candidate.id)
        if run is None or run.order.id != order.id or (run.state == "lost" and not run.is_missed):
            judging = None if order.judge is None else Judging(order.judge, order.id)
            run = self._run = _Run(order, judging, now, now)
        return self._told(run, now)

    def end(self, canary_id: str) -> None:
        """Its candidate gets no more requests. What one has shown is told again to whoever orders it again."""
        self._look(self._clock())
        run = self._run
        if run is not None and run.order.id == canary_id and run.state not in _SHOWN:
            self._run = None

    def answers(self, canary_id: str, said: CanaryVerdicts) -> list[Taken]:
        """Takes what its judge has said; what that is to read next. None of one that does not run, or has no judge."""
        self._look(self._clock())
        run = self._run
        if run is None or run.order.id != canary_id or not run.is_running or run.judging is None:
            return []
        next_ones = run.judging.handed(said)
        self.judge(run)
        return next_ones if run.is_running else []

    async def until_answers(self, canary_id: str) -> None:
        """Returns when there is an answer for its judge to read: never, where it does not run any more."""
        while not self._has_answers(canary_id):
            await self._taken.wait()

    def _has_answers(self, canary_id: str) -> bool:
        run = self._run
        return run is not None and run.order.id == canary_id and run.judging is not None and run.judging.has_answers

    def took(self) -> None:
        """Answers for a judge; wakes whoever waits for them."""
        taken, self._taken = self._taken, asyncio.Event()
        taken.set()

    @property
    def tried(self) -> ModelRef | None:
        """The candidate of the canary that runs."""
        self._look(self._clock())
        run = self._run
        return run.order.candidate if run is not None and run.is_running else None

    def trial(
        self, active: ModelRef | None, headers: Iterable[tuple[bytes, bytes]], key: str | None, request_id: str
    ) -> "Trial | None":
        """For a request for the active model: its part in the canary; None: none runs."""
        run = self._running_beside(active)
        if run is None:
            return None
        unit = unit_of(headers, key, request_id, by_key=run.order.sticky == "key")
        chosen = takes_part(run.order.id, unit, run.order.share)
        shadow = run.order.shadow
        drawn = chosen and run.judging is not None and run.judging.draws(request_id)
        candidate = run.order.candidate if chosen and not shadow else None
        return Trial(self, run, candidate, shadowed=chosen and shadow, drawn=drawn)

    def _running_beside(self, active: ModelRef | None) -> _Run | None:
        """The canary that runs; over when another model than it was ordered beside is active."""
        self._look(self._clock())
        run = self._run
        if run is None or not run.is_running or active is None:
            return None
        if active.digest != run.order.active:
            self._end(run, "superseded", "another model became active")
            return None
        return run

    def judge(self, run: _Run) -> None:
        """After each answer: back at once where a limit is breached."""
        if run.is_running and (reason := breach(run.candidate, run.active, run.limits, run.judged)) is not None:
            self._end(run, "breached", reason)

    def missed(self, run: _Run) -> None:
        """Its candidate was to be asked and is not there: nobody learns anything about it any more."""
        if run.is_running:
            self._end(run, "lost", f"`{run.order.candidate.id}` is not loaded any more")
            run.is_missed = True

    def died(self, run: _Run) -> None:
        """The candidate's engine died with a request of its share inside, which no limit on errors allows."""
        if run.is_running or run.is_missed:
            self._end(run, "breached", "errors: its engine died while it answered")
            run.is_missed = False

    def now(self) -> float:
        return self._clock()

    def _look(self, now: float) -> None:
        run = self._run
        if run is None or not run.is_running:
            return
        if now - run.asked_s > LEASE_S:
            self._end(run, "lost", f"nobody asked after it for {LEASE_S:g} s")
        elif now - run.began_s >= run.order.seconds:
            order = run.order
            reason = too_few(run.candidate, run.active, run.limits, order.min_requests, order.seconds)
            if reason is None and run.judging is not None:
                reason = run.judging.too_few
            self._end(run, "passed" if reason is None else "undecided", reason)

    def _end(self, run: _Run, state: CanaryState, reason: str | None) -> None:
        run.state, run.reason, run.ended_s = state, reason, self._clock()
        if run.judging is not None:
            run.judging.forget()

    def _told(self, run: _Run, now: float) -> CanaryReport:
        run.asked_s, run.is_missed = now, False
        new, old = run.candidate, run.active
        return CanaryReport(
            id=run.order.id,
            state=run.state,
            reason=run.reason,
            elapsed_s=(now if run.ended_s is None else run.ended_s) - run.began_s,
            candidate=_arm(new),
            active=_arm(old),
            compared=run.compared,
            same=run.same,
            latency_ratio=None if run.order.shadow else ratio(new.latencies_s, old.latencies_s),
            tokens_ratio=ratio(new.tokens, old.tokens),
            guards=standing(new, old, run.limits, run.judged),
            judge=None if run.judging is None else run.judging.told,
        )


@contextmanager
def watched(
    trial: "Trial | None", model: ModelRef, path: str, body: bytes, response: TrackedSend, meter: Meter | None
) -> Iterator[None]:
    """Around the answer of `model` to a request that is part of a canary, or of none."""
    if trial is None:
        yield
        return
    judged = trial.is_judged(model.digest)
    heard = _Heard(response) if trial.shadowed or judged else None
    trial.begin()
    try:
        yield
    finally:
        trial.end(model.digest, response, None if meter is None else meter.completion_tokens)
        answer = None if heard is None else heard.answer
        if answer is not None and judged:
            trial.take(model.digest, path, body, answer, is_stream=response.is_stream)
        elif answer is not None and not response.is_stream:
            trial.shadow(Answered(model, path, body, answer))


class _Heard:
    """An answer's body as it is sent, beside whoever else hears it; nothing of one that is too long."""

    def __init__(self, response: TrackedSend) -> None:
        self._response, self._before = response, response.hears
        self._pieces: list[bytes] = []
        self._length = 0
        response.hears = self._hear

    @property
    def answer(self) -> bytes | None:
        """None: it is not whole and good."""
        response = self._response
        good = response.ended and response.status == 200 and response.given_up is None
        return b"".join(self._pieces) if good and self._length <= LONGEST_BYTES else None

    def _hear(self, message: Message) -> None:
        if self._before is not None:
            self._before(message)
        piece = message.get("body", b"")
        self._length += len(piece)
        if self._length <= LONGEST_BYTES:
            self._pieces.append(piece)


@dataclass(slots=True)
class Trial:
    """One request's part in a canary. `candidate`: who is to answer it; None: the active model. `shadowed`: the
    candidate is asked afterwards too. `drawn`: a judge is to read the candidate's answer.
    """

    _canary: Canary
    _run: _Run
    candidate: ModelRef | None
    shadowed: bool = False
    drawn: bool = False
    _began_s: float = 0.0

    @property
    def asked_of(self) -> ModelRef | None:
        """The candidate, if it is asked in one way or the other."""
        return self._run.order.candidate if self.shadowed else self.candidate

    def missed(self) -> None:
        """The candidate is not loaded."""
        self._canary.missed(self._run)

    def died(self, answered_by: str) -> None:
        """The engine of whoever answered; `answered_by` is a digest."""
        if answered_by == self._run.order.candidate.digest:
            self._canary.died(self._run)

    def begin(self) -> None:
        """The engine gets the request."""
        self._began_s = self._canary.now()

    def end(self, answered_by: str, response: TrackedSend, tokens: int | None) -> None:
        """`answered_by` is a digest. What the client broke off or was refused for its own faults counts for nobody."""
        arms = {self._run.order.candidate.digest: self._run.candidate, self._run.order.active: self._run.active}
        arm = arms.get(answered_by)
        if arm is None or not self._run.is_running:
            return
        failure = response.given_up
        if response.status >= 500 or (failure is not None and failure.status >= 500):
            arm.failed()
        elif failure is None and response.ended and response.status < 400:
            arm.answered(self._canary.now() - self._began_s, tokens)
        self._canary.judge(self._run)

    def is_judged(self, answered_by: str) -> bool:
        """Whether a judge may read the answer of that digest. Of a shadow it reads both, once there are both."""
        order, judging = self._run.order, self._run.judging
        if judging is None or order.shadow:
            return False
        if answered_by == order.candidate.digest:
            return self.drawn
        return answered_by == order.active and judging.needs_active

    def take(self, answered_by: str, path: str, body: bytes, content: bytes, *, is_stream: bool) -> None:
        """An answer that a judge is to read."""
        judging = self._run.judging
        if judging is not None and self._run.is_running:
            of_candidate = answered_by == self._run.order.candidate.digest
            judging.take(path, body, content, is_stream=is_stream, of_candidate=of_candidate)
            self._canary.took()

    def take_both(self, answered: Answered, candidate: bytes) -> None:
        """The answers of active model and shadow, for a judge if it was drawn."""
        judging = self._run.judging
        if judging is not None and self.drawn and self._run.is_running:
            judging.take_both(answered.path, answered.body, answered.answer, candidate)
            self._canary.took()

    def shadow(self, answered: Answered) -> None:
        shadows, run = self._canary.shadows, self._run
        if shadows is not None and run.is_running:
            shadows.start(run.order.candidate, answered, (run.candidate, run.active), self)

    def compared(self, *, same: bool) -> None:
        self._run.compared += 1
        self._run.same += same

    def judge(self) -> None:
        self._canary.judge(self._run)


def _arm(arm: Arm) -> CanaryArm:
    latency, tokens = arm.latencies_s, arm.tokens
    return CanaryArm(
        requests=arm.requests,
        errors=arm.errors,
        latency_s=math.exp(latency.mean) if latency.count else None,
        tokens=math.exp(tokens.mean) - 1 if tokens.count else None,
        loss=-arm.logprob / arm.scored_tokens if arm.scored_tokens else None,
    )
