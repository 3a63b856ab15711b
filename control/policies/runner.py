"""One loop that makes the jobs of policies."""

import logging
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from control.clock import Clock, utc_now
from control.database.tables import PolicyRunRow
from control.errors import Conflict, DatabaseUnavailable, GatewayUnavailable, NoSpace, QueueFull, ServiceError
from control.jobs.queue import JobQueue
from control.jobs.states import LIVE
from control.models.repository import ModelRepository
from control.policies.book import PolicyBook
from control.policies.request import PolicyRequest
from control.policies.steps import DATA_GEN, Steps
from control.tasks import repeat, uncut
from stepserve.request_id import key_id

log = logging.getLogger(__name__)

_AT_ONCE = 100
_PASSES = (QueueFull, GatewayUnavailable, NoSpace)
"""A step that is refused so is tried again."""


class _Waits(Exception):
    """For what the step waits."""


class PolicyRunner:
    """Looks every `look_every_s`. A step that is refused says so in its run and in the log; other steps go on."""

    def __init__(
        self,
        book: PolicyBook,
        steps: Steps,
        models: ModelRepository,
        queue: JobQueue,
        look_every_s: float = 2.0,
        clock: Clock = utc_now,
    ) -> None:
        self._book = book
        self._steps = steps
        self._models = models
        self._queue = queue
        self._look_every_s = look_every_s
        self._clock = clock

    async def run(self) -> None:
        """For ever, until cancelled."""
        await repeat(lambda: uncut(self._round()), "a round of policies", self._look_every_s)

    async def _round(self) -> None:
        while await self._book.begin():
            pass
        for run in await self._book.due(_AT_ONCE):
            try:
                await self._advance(run)
            except DatabaseUnavailable:
                raise
            except Exception:
                # A row that somebody wrote by hand: it must not hold up those behind it.
                log.exception("the run %s of policy %s is given up", run.id, run.policy)
                await self._book.give_up(run)

    async def _advance(self, run: PolicyRunRow) -> None:
        """Raises DatabaseUnavailable; jobs that were made by then are found again by their keys."""
        steps = [dict(step) for step in run.steps]
        paid_by = key_id.set(run.created_by)
        try:
            for step in steps:
                if step["job_id"] is None and step["error"] is None:
                    step.update(await self._try(run, step["step"], steps))
        finally:
            key_id.reset(paid_by)
        is_open = any(step["job_id"] is None and step["error"] is None for step in steps)
        due_at = self._clock() + timedelta(seconds=self._look_every_s)
        await self._book.note(run, steps, "open" if is_open else "over", due_at)

    async def _try(self, run: PolicyRunRow, step: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
        """What is to be noted of the step."""
        try:
            job_id = await self._make(run, step, steps)
        except DatabaseUnavailable:
            raise
        except (_Waits, *_PASSES) as reason:
            return {"waiting_for": str(reason)}
        except (ServiceError, ValidationError) as error:
            log.warning("policy %s makes no %s of %s: %s", run.policy, step, run.model_id, error)
            return {"error": str(error), "waiting_for": None}
        except Exception as error:
            # A defect of one step, which would be the same at each look: it must hold up no other run.
            log.exception("policy %s makes no %s of %s", run.policy, step, run.model_id)
            return {"error": f"{type(error).__name__}: {error}", "waiting_for": None}
        log.info("policy %s made %s (%s) of %s", run.policy, job_id, step, run.model_id)
        return {"job_id": job_id, "waiting_for": None}

    async def _make(self, run: PolicyRunRow, step: str, steps: list[dict[str, Any]]) -> str:
        eval_id = await self._done_eval(steps[0]) if step == DATA_GEN else ""
        model = await self._models.get(run.model_id)
        if model.digest != run.model_digest:
            raise Conflict(f"{run.model_id} has other content now ({model.digest})")
        policy = PolicyRequest.model_validate(run.content)
        request = self._steps.request_of(step, run.policy, policy, run.model_id, eval_id)
        # No header has a line feed in it, so no client's key is the same.
        return await self._steps.make(step, request, f"policy\n{run.id}\n{step}")

    async def _done_eval(self, first: dict[str, Any]) -> str:
        if first["error"] is not None:
            raise Conflict(f"{first['step']} was not made")
        if first["job_id"] is None:
            raise _Waits(first["step"])
        job = await self._queue.get(first["job_id"])
        if job.status in LIVE:
            raise _Waits(job.id)
        if job.status != "done":
            raise Conflict(f"{job.id} is {job.status}, so there are no failures to read")
        return job.id
