"""A server while a demo uses it: when the demo ends, however it ends, the server is as usable as before."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from stepserve import Client
from stepserve.client.errors import Conflict, JobFailed, NotFound, StepserveError
from stepserve.client.push import Pushed

_ENDS_WITHIN_S = 120.0  # a job that was cancelled, in the middle of a switch at most


class Visit:
    """Models are pushed through it. Leaving it cancels the jobs of those that are not over, makes the model active that
    was when it began, and removes the pushed ones with their files. Jobs, datasets and shards stay.

    Entering raises NotFound when no model is active, and every other StepserveError; leaving raises nothing, and says
    on stderr what could not be taken back.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._was_active = ""
        self._pushed: list[str] = []

    def push(self, folder: str | os.PathLike[str], model_id: str, **options: Any) -> Pushed:
        """stepserve.Client.push_checkpoint. An id that is taken is a Conflict, whatever its content."""
        if model_id in {model.id for model in self._client.list_models()}:
            raise Conflict(409, f"{model_id} is on the server already")
        self._pushed.append(model_id)
        return self._client.push_checkpoint(folder, model_id, **options)

    def __enter__(self) -> Self:
        self._was_active = self._client.active_model().id
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._undo(f"the jobs of {', '.join(self._pushed)}", self._end_jobs)
        self._undo(f"the switch from {self._was_active}", self._switch_back)
        for model_id in self._pushed:
            self._undo(model_id, partial(self._remove, model_id))

    def _undo(self, what: str, step: Callable[[], None]) -> None:
        """The steps after it are taken all the same."""
        try:
            step()
        except StepserveError as trouble:
            print(f"The server still has {what}: {trouble}", file=sys.stderr)

    def _switch_back(self) -> None:
        if self._client.active_model().id != self._was_active:
            self._client.set_active_model(self._was_active)

    def _end_jobs(self) -> None:
        """A promotion that went on would switch to a model that is about to go."""
        open_jobs = [job for status in ("pending", "running") for job in self._client.list_jobs(status=status)]
        ours = [job.id for job in open_jobs if job.model_id in self._pushed]
        for job_id in ours:
            with suppress(Conflict):  # it is over now
                self._client.cancel_job(job_id)
        for job_id in ours:
            with suppress(JobFailed):
                self._client.wait_for_job(job_id, _ENDS_WITHIN_S)

    def _remove(self, model_id: str) -> None:
        try:
            self._client.delete_model(model_id, files=True)
        except NotFound:  # what was sent of a push that was broken off
            with suppress(NotFound):
                self._client.discard_upload(model_id)
