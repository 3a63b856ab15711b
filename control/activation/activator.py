"""The Activator: the one writer of what the gateway serves. One switch at a time."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from control.activation.progress import Progress
from control.activation.wishes import SwitchCondition, SwitchWish, check
from control.errors import ActivationFailed, Conflict, DatabaseUnavailable, JobError, ServiceError, Superseded
from control.fleet.bringing import Wanted
from control.fleet.kept_versions import KeptVersions
from control.fleet.local import serves_files_of
from control.fleet.rollouts import Order, Rollouts
from control.gateway_client import GatewayClient
from control.models.activation_log import ActivationLog, ActiveModel
from control.models.references import References
from control.models.registry import Registry
from control.tasks import Tasks
from stepserve.contract import (
    ActivateRequest,
    ActivateResult,
    ModelRef,
    Proof,
    ProveRequest,
    Reference,
)
from stepserve.fleet import KeptVersion

log = logging.getLogger(__name__)


class Activator:
    """`on_change` is called after every switch that was tried, from the event loop.

    A switch waits up to `proof_wait_s` for a reference that is being computed, before anything is asked of the gateway.
    """

    def __init__(
        self,
        registry: Registry,
        history: ActivationLog,
        gateway: GatewayClient,
        references: References,
        rollouts: Rollouts,
        versions: KeptVersions,
        on_change: Callable[[], None],
        proof_wait_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._history = history
        self._gateway = gateway
        self._references = references
        self._rollouts = rollouts
        self._versions = versions
        self._on_change = on_change
        self._proof_wait_s = proof_wait_s
        self._clock_s = clock_s
        self._progress: Progress | None = None
        self._tasks = Tasks()
        self._target: str | None = None
        self._switching: asyncio.Task[ActivateResult] | None = None
        self._pushes = False  # and nobody who asks for a switch joins that
        self.left_open = False
        """Whether the database did not take the end of a switch, whose activation is still `running`."""

    @property
    def target(self) -> str | None:
        """The id that a switch is going to right now."""
        return self._target

    @property
    def progress(self) -> Progress | None:
        """How far the activation is that runs; while it waits for a reference, for how long so far."""
        now = self._progress
        if now is None or now.phase != "waiting_for_reference":
            return now
        return replace(now, reference_wait_ms=self._ms_since(now.since_s))

    async def set_active(
        self, model_id: str, wish: SwitchWish, *, cause: str = "request", condition: SwitchCondition | None = None
    ) -> ActivateResult:
        """Makes a model the active one. A caller that is cancelled does not stop the switch.

        A switch to the same model that is under way is joined, whatever was wished for it, and its end is the answer.
        One that is active already is proved as it serves; one whose weights were pushed is loaded from its files again.
        With a `condition` one `cause` switches once, however often it is tried.

        Raises NotFound, Invalid (files gone or changed, method impossible), Conflict (a switch to another model runs),
        GatewayUnavailable, and ActivationFailed when the candidate did not come up or failed its proof; Superseded when
        a `condition` is not fulfilled (any more).
        """
        return await self._alone(model_id, self._switch(model_id, wish, cause, condition, self._clock_s()))

    async def take_over(
        self, model: ModelRef, wish: SwitchWish, *, on_success: Callable[[], Awaitable[None]], cause: str
    ) -> ActivateResult:
        """A switch to other content of the active model's id; `on_success` makes it the registered one.

        Raises as `set_active`; Conflict while any switch runs. After a failure the id has its content as before.
        """
        self._check_idle()
        return await self._alone(model.id, self._change(model, wish, cause, on_success, self._clock_s()))

    async def roll_back(self, wish: SwitchWish) -> ActivateResult:
        """`set_active` of the model that was active before. Raises Conflict when there is none."""
        previous = await self._history.previous()
        if previous is None:
            raise Conflict("there is no earlier active model to go back to")
        return await self.set_active(previous, wish, cause="rollback")

    async def push(self, pushed: KeptVersion) -> ActivateResult:
        """Has weights that were pushed to control's own gateway served by the whole fleet, or by nobody.

        What failed and was taken back is a result. Raises Conflict (a switch runs, or the model is another by now),
        GatewayUnavailable, Invalid.
        """
        self._check_idle()
        self._pushes = True
        try:
            return await self._alone(pushed.model, self._push(pushed, self._clock_s()))
        except ActivationFailed as error:
            return error.result

    async def adopt(self) -> None:
        """Commits what was pushed to control's own gateway while it had no members, so that they serve it too.

        Raises GatewayUnavailable; ServiceError when it cannot be kept on disk.
        """
        state, active = await self._gateway.state(), await self._history.active()
        if self._switching is not None or self.left_open or active is None or state.pushed is None:
            return
        number = state.pushed.number
        if state.active is None or (state.active.id, state.active.digest) != (active.id, active.digest):
            return
        if number <= active.version.number or await self._history.is_taken_back(active.id, number):
            return
        kept = await self._gateway.keep()
        if self._switching is None and kept.version.number == number and kept.files_digest == active.digest:
            await self._history.commit(await self._history.begin_push(kept, cause="member"), None)
            await self._versions.tidy(await self._history.active())

    async def restore(self, active: ActiveModel) -> ActivateResult:
        """Brings the gateway to what already is committed; not an activation of the history.

        Raises as `set_active`.
        """
        return await self._alone(active.id, self._restore(active))

    async def close(self) -> None:
        """Lets go of a switch under way: its activation stays `running` and is resolved at the next start."""
        await self._tasks.close()

    async def _alone(self, model_id: str, work: Coroutine[Any, Any, ActivateResult]) -> ActivateResult:
        if self._switching is not None:
            work.close()
            if self._target != model_id or self._pushes:
                raise Conflict(f"a switch to {self._target} is running: try again when it is over")
            return await asyncio.shield(self._switching)
        self._target = model_id
        self._switching = self._tasks.spawn(work, name=f"activation of {model_id}")
        self._switching.add_done_callback(self._over)
        return await asyncio.shield(self._switching)

    def _over(self, _task: asyncio.Task[ActivateResult]) -> None:
        self._target = self._switching = self._progress = None
        self._pushes = False
        self._on_change()

    def _check_idle(self) -> None:
        """Raises Conflict."""
        if self._switching is not None:
            raise Conflict(f"a switch to {self._target} is running: try again when it is over")

    async def _switch(
        self, model_id: str, wish: SwitchWish, cause: str, condition: SwitchCondition | None, asked_s: float
    ) -> ActivateResult:
        model = await self._registry.proven(model_id)
        active = await self._history.active()
        is_active = active is not None and active.id == model.id
        asks = is_active or wish.spares_pushed or condition is not None
        state = await self._gateway.state() if asks else None
        if condition is not None:
            check(condition, model, active, state)
            if not is_active and await self._history.is_done(cause):
                raise Superseded(f"{model.id} was made active by the {cause} already, and another model after it")
        if wish.spares_pushed and state is not None and state.active is not None and state.pushed is not None:
            raise Conflict(f"version {state.pushed.number} of {state.active.id} was pushed, and a switch would end it")
        if (
            is_active
            and state is not None
            and serves_files_of(state, model)
            and state.pushed is None
            and active is not None
            and not active.version.number
            and state.active is not None
            and state.active.is_loaded_as(model)
        ):
            return await self._prove(model, wish, asked_s)
        return await self._change(model, wish, cause, None, asked_s)

    async def _prove(self, model: ModelRef, wish: SwitchWish, asked_s: float) -> ActivateResult:
        """Of the model that is active already: nothing is switched, whatever the proof finds."""
        reference, waited_ms = await self._awaited_reference(model, wish)
        proof = await self._gateway.prove(ProveRequest(model=model, reference=reference))
        if reference is None:
            proof = self._explained(proof, model)
        error = None if proof.passed else f"`{model.id}` serves and fails its proof ({proof.kind}): {proof.reason}"
        result = ActivateResult(
            status="activated" if proof.passed else "failed",
            id=model.id,
            previous=model.id,
            method="none",
            paused_ms=0,
            total_ms=self._ms_since(asked_s),
            reference_wait_ms=waited_ms,
            in_flight=0,
            proof=proof,
            error=error,
            rolled_back_to=None if proof.passed else model.id,
        )
        if error is not None:
            log.error("%s", error)
            raise ActivationFailed(result)
        await self._registry.want_reference(model.id)
        return result

    async def _awaited_reference(self, model: ModelRef, wish: SwitchWish) -> tuple[Reference | None, float]:
        """The reference, and for how many milliseconds it was waited for. Raises CheckpointBroken."""
        started_s = self._clock_s()
        reference = await self._references.reference_for(model.digest, min(self._proof_wait_s, wish.timeout_s))
        return reference, self._ms_since(started_s)

    def _explained(self, proof: Proof, model: ModelRef) -> Proof:
        """Why it is weak for want of a reference, which the gateway does not know."""
        if proof.kind != "weak":
            return proof
        why = f"there is no reference of this checkpoint: {self._references.why_missing(model.digest)}"
        return proof.model_copy(update={"why": why})

    def _ms_since(self, started_s: float) -> float:
        return round((self._clock_s() - started_s) * 1000, 2)

    async def _change(
        self,
        model: ModelRef,
        wish: SwitchWish,
        cause: str,
        on_success: Callable[[], Awaitable[None]] | None,
        asked_s: float,
    ) -> ActivateResult:
        activation_id = await self._history.begin(model, cause=cause, method=wish.method)
        result = await self._concluded(activation_id, self._carry_out(activation_id, model, wish, asked_s), on_success)
        await self._registry.want_reference(model.id)
        return result

    async def _push(self, pushed: KeptVersion, asked_s: float) -> ActivateResult:
        active = await self._history.active()
        if active is None or (active.id, active.digest) != (pushed.model, pushed.files_digest):
            raise Conflict(f"{pushed.model} was switched or registered anew while its weights came in: push again")
        model = await self._registry.proven(active.id)
        activation_id = await self._history.begin_push(pushed, cause="push")
        self._progress = Progress(activation_id, "switching", self._clock_s())

        async def carried_out() -> ActivateResult:
            reference = await self._references.stored(model.digest)
            wanted = Wanted(await self._request(model, reference, SwitchWish()), pushed)
            result = await self._rollouts.roll_out(
                Order(activation_id, wanted, active, "all", "25%"),
                local=lambda: self._gateway.take(pushed),
                back=lambda: self._restore(active),
            )
            return result.model_copy(update={"total_ms": self._ms_since(asked_s)})

        return await self._concluded(activation_id, carried_out(), None)

    async def _carry_out(self, activation_id: int, model: ModelRef, wish: SwitchWish, asked_s: float) -> ActivateResult:
        self._progress = Progress(activation_id, "waiting_for_reference", self._clock_s())
        reference, waited_ms = await self._awaited_reference(model, wish)
        self._progress = Progress(activation_id, "switching", self._clock_s(), waited_ms)
        result = await self._everywhere(activation_id, model, reference, wish)
        proof = result.proof
        if reference is None and proof is not None:
            proof = self._explained(proof, model)
        measured = {"total_ms": self._ms_since(asked_s), "reference_wait_ms": waited_ms, "proof": proof}
        return result.model_copy(update=measured)

    async def _concluded(
        self,
        activation_id: int,
        work: Coroutine[Any, Any, ActivateResult],
        on_success: Callable[[], Awaitable[None]] | None,
    ) -> ActivateResult:
        """The end of `work`, in the rows that count. Raises what it raises, and ActivationFailed."""
        try:
            result = await self._ended(activation_id, work, on_success)
        except (DatabaseUnavailable, SQLAlchemyError):
            self.left_open = True
            raise
        except ServiceError:
            await self._tidy()
            raise
        await self._tidy()
        return result

    async def _tidy(self) -> None:
        """Of versions that nobody needs now; where the database does not answer that waits for the next switch."""
        with contextlib.suppress(DatabaseUnavailable, SQLAlchemyError):
            await self._versions.tidy(await self._history.active())

    async def _ended(
        self,
        activation_id: int,
        work: Coroutine[Any, Any, ActivateResult],
        on_success: Callable[[], Awaitable[None]] | None,
    ) -> ActivateResult:
        try:
            result = await work
        except ServiceError as error:
            await self._history.fail(activation_id, str(error))
            await self._rollouts.settled(activation_id, committed=False)
            raise
        if result.status == "failed":
            failure = ActivationFailed(result)
            await self._history.fail(activation_id, str(failure), result)
            await self._rollouts.settled(activation_id, committed=False)
            raise failure
        if on_success is not None:
            await on_success()
        await self._history.commit(activation_id, result)
        await self._rollouts.settled(activation_id, committed=True)
        log.info(
            "%s is active (%s, %.0f ms, paused %.0f ms)", result.id, result.method, result.total_ms, result.paused_ms
        )
        return result

    async def _restore(self, active: ActiveModel) -> ActivateResult:
        """Its files, and the version that was pushed over them where one is committed."""
        model, kept = await self._registry.proven(active.id), await self._versions.of(active)
        result = None
        if kept is None or not serves_files_of(await self._gateway.state(), model):
            reference = await self._references.stored(model.digest)
            result = await self._ask(await self._request(model, reference, SwitchWish()))
        if kept is not None and (result is None or result.status == "activated"):
            result = await self._gateway.take(kept)
        assert result is not None, "one of the two was asked"
        if result.status == "failed":
            raise ActivationFailed(result)
        return result

    async def _everywhere(
        self, activation_id: int, model: ModelRef, reference: Reference | None, wish: SwitchWish
    ) -> ActivateResult:
        """On this machine's gateway, and on the members of the fleet where there are any."""
        request = await self._request(model, reference, wish)
        if not self._rollouts.has_members:
            return await self._ask(request)
        previous = await self._history.active()
        if previous is None:
            return await self._ask(request)
        order = Order(activation_id, Wanted(request), previous, wish.policy, wish.wave)
        return await self._rollouts.roll_out(
            order, local=lambda: self._ask(request), back=lambda: self._restore(previous)
        )

    async def _request(self, model: ModelRef, reference: Reference | None, wish: SwitchWish) -> ActivateRequest:
        base_reference = await self._references.reference_for(model.base.digest, wait_s=0) if model.base else None
        return ActivateRequest(
            model=model,
            reference=reference,
            base_reference=base_reference,
            method=wish.method,
            in_flight=wish.in_flight,
            timeout_s=wish.timeout_s,
            keep_alive_s=await self._registry.keep_alive_s(model),
        )

    async def _ask(self, request: ActivateRequest) -> ActivateResult:
        try:
            return await self._gateway.activate(request)
        except JobError as error:
            raise Conflict(f"the gateway refused {request.model.id}: {error}") from error
