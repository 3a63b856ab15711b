"""Why a pending job does not run yet, in words that follow "waits for"."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from control.clock import iso
from control.database.tables import NO_DIGEST, JobRow


@dataclass(frozen=True, slots=True)
class RunnerView:
    """The job runner as it is now.

    `held`: types that may not run, with the reason. `running` has the jobs under way by type, `limits` the places of a
    type that has its own number; those of the engine share `engine_places`. `loading` is being loaded beside the active
    model, `ready` are there, and `refused` could not be, with the reason.
    """

    held: Mapping[str, str]
    running: Mapping[str, int]
    limits: Mapping[str, int]
    engine_running: int
    engine_places: int
    standalone_places: int
    loading: str | None
    ready: Collection[str]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineView:
    """`switching_to`: a switch is under way. `borrowed_by`: the job that has borrowed the engine, until it is over."""

    active_id: str | None
    switching_to: str | None
    borrowed_by: str | None


def waiting_for(job: JobRow, runner: RunnerView, engine: EngineView, now: datetime) -> str | None:
    """None for a job that is not pending, and for one that is about to start."""
    if job.status != "pending":
        return None
    if job.type in runner.held:
        return runner.held[job.type]
    if job.not_before is not None and job.not_before > now:
        return f"its next attempt, at {iso(job.not_before)}"
    place = _place(job, runner)
    if job.model_digest == NO_DIGEST:
        return place
    if engine.borrowed_by not in {None, job.id}:
        return f"job {engine.borrowed_by}, which has borrowed the engine"
    model = _model(job, runner, engine)
    return f"{place}, and {model}" if place and model else place or model


def _place(job: JobRow, runner: RunnerView) -> str | None:
    running = runner.running.get(job.type, 0)
    limit = runner.limits.get(job.type)
    standalone = job.model_digest == NO_DIGEST
    if limit is None and standalone:
        limit = runner.standalone_places
    if limit is not None and running >= limit:
        return f"a free place ({running} of {limit} {job.type} jobs run)"
    if not standalone and runner.engine_running >= runner.engine_places:
        return f"a free place ({runner.engine_running} of {runner.engine_places} jobs run)"
    return None


def _model(job: JobRow, runner: RunnerView, engine: EngineView) -> str | None:
    wanted = job.model_id
    if wanted == engine.active_id or wanted in runner.ready:
        return None
    if wanted == engine.switching_to:
        return f"the running switch to model {wanted}"
    if wanted == runner.loading:
        return f"model {wanted}, which is being loaded"
    if job.when_inactive == "switch":
        return f"a quiet moment to switch to model {wanted}{_noise(runner, engine)}"
    room = f"room to load {wanted} or its activation"
    if engine.active_id is None:
        return f"the activation of {wanted}"
    reason = runner.refused.get(wanted)
    return room + (f" (not possible now: {reason})" if reason else "")


def _noise(runner: RunnerView, engine: EngineView) -> str:
    if engine.switching_to is not None:
        return f" (a switch to model {engine.switching_to} is under way)"
    running = runner.engine_running
    return f" ({running} {'jobs run' if running > 1 else 'job runs'})" if running else ""
