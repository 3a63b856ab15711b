"""Switching the whole fleet: stage on all, commit wave by wave, or bring all back. The Activator begins one at a time.

What to do next is decided by control.fleet.rollout_plan, from rows that are read again before every step.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from control.errors import ServiceError
from control.fleet.bringing import Bringer, MemberLost, SwitchFailed, Wanted
from control.fleet.members import Member, Members
from control.fleet.rollout_book import RolloutBook
from control.fleet.rollout_plan import (
    BAD,
    BeginCommits,
    Commit,
    Finish,
    Over,
    RollBack,
    Rollout,
    Stage,
    StepState,
    after_restart,
    next_action,
    waves,
)
from control.models.activation_log import ActiveModel
from control.tasks import uncut
from stepserve.contract import ActivateResult, MemberSwitch, ModelRef
from stepserve.fleet import LOCAL_MEMBER, Committed, RolloutPolicy, RolloutView, StageRequest, Wave

log = logging.getLogger(__name__)

T = TypeVar("T")
Switch = Callable[[], Awaitable[ActivateResult]]


@dataclass(frozen=True, slots=True)
class Order:
    """A switch of the fleet, or a push to it. `previous`: what is committed until this one is."""

    activation_id: int
    wanted: Wanted
    previous: ActiveModel
    policy: RolloutPolicy
    wave: Wave


@dataclass(slots=True, eq=False)
class _Run:
    """What a rollout that is carried out has in memory alone; without it, it is rolled back."""

    id: int
    wanted: Wanted
    previous: ActiveModel
    members: dict[str, Member]
    staging: StageRequest
    there: dict[str, ModelRef] = field(default_factory=dict)
    results: dict[str, ActivateResult] = field(default_factory=dict)
    failed: dict[str, MemberSwitch] = field(default_factory=dict)
    local_error: ServiceError | None = None

    def gateways(self) -> list[MemberSwitch]:
        went = [
            MemberSwitch(id=name, method=result.method, paused_ms=result.paused_ms, proof=result.proof)
            for name, result in self.results.items()
            if name not in self.failed
        ]
        return sorted([*went, *self.failed.values()], key=lambda each: each.id)


class Rollouts:
    """`step_timeout_s`: how long one member may take to get its files, and again to switch, before it has failed."""

    def __init__(self, book: RolloutBook, members: Members, bringer: Bringer, step_timeout_s: float) -> None:
        self._step_timeout_s = step_timeout_s
        self._book = book
        self._members = members
        self._bringer = bringer
        self.unsettled = False
        """Whether an earlier process left a rollout open that the reconciler has not settled yet."""

    @property
    def has_members(self) -> bool:
        """Whether a switch is more than one of control's own gateway."""
        return bool(self._members.ready())

    async def open(self) -> None:
        """Looks for what an earlier process left, or a switch whose end the database did not take."""
        await self._book.close_settled()
        newest = await self._book.newest()
        self.unsettled = newest is not None and newest.rollout.phase not in {"committed", "rolled_back"}

    async def view(self) -> RolloutView | None:
        newest = await self._book.newest()
        return newest.view() if newest is not None else None

    async def counts(self) -> dict[str, int]:
        return await self._book.counts()

    async def roll_out(self, order: Order, local: Switch, back: Switch) -> ActivateResult:
        """Switches control's own gateway (`local`) and every ready member, or none: `back` undoes the first.

        Without members it is `local` and nothing else. What is answered is not committed yet; the caller commits it and
        calls `settled`. Raises what `local` raises, once all are back.
        """
        others = self._members.ready()
        if not others:
            return await local()
        wanted, previous = order.wanted, order.previous
        staging = await self._bringer.staging_of(wanted)
        turns = waves((member.id for member in others), order.wave)
        rollout_id = await uncut(
            self._book.begin(order.activation_id, wanted.committed, previous.id, order.policy, order.wave, turns)
        )
        run = _Run(rollout_id, wanted, previous, {member.id: member for member in others}, staging)
        log.info("rollout %d of %s to %d gateways begins", run.id, wanted, len(others) + 1)
        try:
            return await self._drive(run, local, back)
        finally:
            for member in run.members.values():
                member.in_turn = False

    async def verdict(self, activation_id: int) -> bool | None:
        """Whether an activation that was interrupted counts; None: not a rollout, and the gateway alone knows."""
        stored = await self._book.of_activation(activation_id)
        if stored is None:
            return None
        match after_restart(stored.rollout):
            case Finish():
                return True
            case Over():
                return stored.rollout.phase == "committed"
            case _:
                return False

    async def settled(self, activation_id: int, *, committed: bool) -> None:
        """The activation has ended so. Members that differ are the keeper's from here on, even where the database does
        not answer: one that kept its `target` would count as ready with it.
        """
        try:
            stored = await self._book.of_activation(activation_id)
            if stored is None:
                return
            if committed:
                row = stored.row
                self._members.committed = Committed(model=row.model_id, digest=row.digest, version=row.version)
                await self._leave_behind(stored.row.id, stored.rollout)
            if stored.rollout.phase not in {"committed", "rolled_back"}:
                await uncut(self._book.move(stored.row.id, "committed" if committed else "rolled_back"))
            self.unsettled = False
        finally:
            for member in self._members.all():
                member.target, member.in_turn = None, False
            self._members.changed.set()

    async def _drive(self, run: _Run, local: Switch, back: Switch) -> ActivateResult:
        while True:
            await self._note_lost(run)
            rollout = (await self._book.get(run.id)).rollout
            action = next_action(rollout)
            if not isinstance(action, RollBack):
                await self._leave_behind(run.id, rollout)
            match action:
                case Stage(names):
                    await self._on_each(run, names, "staging", "staged", self._stage)
                case BeginCommits():
                    await uncut(self._book.move(run.id, "committing"))
                case Commit(names) if names == (LOCAL_MEMBER,):
                    await self._commit_local(run, local)
                case Commit(names):
                    await self._on_each(run, names, "committing", "proved", self._commit)
                case Finish():
                    return run.results[LOCAL_MEMBER].model_copy(update={"gateways": run.gateways()})
                case RollBack(reason):
                    return await self._roll_back(run, rollout, reason, back)
                case _:
                    raise AssertionError(f"{action} while nothing is under way")

    async def _note_lost(self, run: _Run) -> None:
        """Members that went away since, or were started anew and serve nothing of this rollout any more."""
        rollout = (await self._book.get(run.id)).rollout
        for step in rollout.steps:
            if step.wave == 0 or step.state in BAD:
                continue
            now = self._members.find(step.member)
            if now is not run.members[step.member]:
                await self._fail(run, step.member, MemberLost("it was started anew, or removed"))
            elif self._members.is_lost(now):
                await self._fail(run, step.member, MemberLost(self._members.state(now)[1] or "it is lost"))

    async def _on_each(
        self,
        run: _Run,
        names: Sequence[str],
        during: StepState,
        after: StepState,
        act: Callable[[_Run, Member], Awaitable[None]],
    ) -> None:
        await uncut(self._book.step(run.id, names, during))

        async def one(name: str) -> None:
            limit_s = self._step_timeout_s
            try:
                async with asyncio.timeout(limit_s):
                    await act(run, run.members[name])
            except SwitchFailed as error:
                await self._fail(run, name, error)
            except TimeoutError:
                late = SwitchFailed(f"it took longer than {limit_s:g} s (setting fleet.step_timeout_s)")
                await self._fail(run, name, late)
            else:
                await uncut(self._book.step(run.id, [name], after))

        await _all(map(one, names))

    async def _stage(self, run: _Run, member: Member) -> None:
        run.there[member.id] = await self._bringer.stage(member, run.staging)

    async def _commit(self, run: _Run, member: Member) -> None:
        member.in_turn = True
        member.target = run.wanted.committed
        try:
            run.results[member.id] = await self._bringer.switch(member, run.wanted, run.there[member.id])
        finally:
            member.in_turn = False

    async def _commit_local(self, run: _Run, local: Switch) -> None:
        await uncut(self._book.step(run.id, [LOCAL_MEMBER], "committing"))
        try:
            result = run.results[LOCAL_MEMBER] = await local()
        except ServiceError as error:
            run.local_error = error
            await self._fail(run, LOCAL_MEMBER, SwitchFailed(str(error)))
            return
        if result.status == "failed":
            await self._fail(run, LOCAL_MEMBER, SwitchFailed(result.error or "it did not come up", result))
        else:
            await uncut(self._book.step(run.id, [LOCAL_MEMBER], "proved"))

    async def _fail(self, run: _Run, name: str, error: SwitchFailed) -> None:
        state: StepState = "lost" if isinstance(error, MemberLost) else "failed"
        log.error("rollout %d: %s %s: %s", run.id, name, state, error)
        result = error.result
        run.failed[name] = MemberSwitch(
            id=name,
            method=result.method if result else "none",
            paused_ms=result.paused_ms if result else 0.0,
            proof=result.proof if result else None,
            error=str(error),
        )
        await uncut(self._book.step(run.id, [name], state, str(error)))

    async def _leave_behind(self, rollout_id: int, rollout: Rollout) -> None:
        """Keeps those out that failed while the others go on, until a person lets them in again."""
        for step in rollout.steps:
            member = self._members.find(step.member)
            if step.state in BAD and member is not None and member.hold is None:
                await self._members.hold(member.id, "cordon", f"rollout {rollout_id}: {step.error}")

    async def _roll_back(self, run: _Run, rollout: Rollout, reason: str, back: Switch) -> ActivateResult:
        previous = run.previous
        log.error("rollout %d goes back to %s: %s", run.id, previous, reason)
        await uncut(self._book.move(run.id, "rolling_back", reason))
        touched = [step.member for step in rollout.steps if step.wave and step.state not in {"pending", "staged"}]
        for name in touched:
            run.members[name].target, run.members[name].in_turn = None, True
        local_serves_it = any(step.wave == 0 and step.state == "proved" for step in rollout.steps)
        tasks = [self._bring_back(run.members[name], previous) for name in touched]
        if local_serves_it:
            tasks.append(self._local_back(back))
        left = [trouble for trouble in await _all(tasks) if trouble is not None]
        await uncut(self._book.move(run.id, "rolled_back"))
        if run.local_error is not None:
            raise run.local_error
        own = run.results.get(LOCAL_MEMBER)
        if own is not None and own.status == "failed":
            return own.model_copy(update={"gateways": run.gateways()})
        where = f"; not back yet: {', '.join(left)}" if left else f"; all are back at {previous}"
        return ActivateResult(
            status="failed",
            id=run.wanted.request.model.id,
            previous=previous.id,
            method=own.method if own is not None else "none",
            paused_ms=own.paused_ms if own is not None else 0.0,
            total_ms=0.0,
            in_flight=own.in_flight if own is not None else 0,
            proof=next((each.proof for each in run.failed.values() if each.proof is not None), None),
            error=f"{reason}{where}",
            rolled_back_to=previous.id,
            gateways=run.gateways(),
        )

    async def _bring_back(self, member: Member, previous: ActiveModel) -> str | None:
        """The member's id when it did not work: the keeper tries again, before the member counts as ready."""
        if self._members.find(member.id) is not member or self._members.is_lost(member):
            return member.id
        try:
            await self._bringer.bring(member, await self._bringer.wanted(previous))
        except ServiceError as error:
            log.error("%s could not be brought back to %s: %s", member.id, previous, error)
            return member.id
        return None

    async def _local_back(self, back: Switch) -> str | None:
        try:
            await back()
        except ServiceError as error:
            log.error("control's own gateway could not be brought back: %s", error)
            return LOCAL_MEMBER
        return None


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each gives, once all have ended: one that raises leaves none running behind it."""
    ends = await asyncio.gather(*work, return_exceptions=True)
    given: list[T] = []
    for end in ends:
        if isinstance(end, BaseException):
            raise end
        given.append(end)
    return given
