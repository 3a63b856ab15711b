"""Counts what one request really used, where the tokens are made."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Meter:
    """`model` is the one that answered; None while none has. `begun`: an engine has taken the request.

    `tasks` are those that wait for an engine now. Cancelling the request's own task does not always reach them: vLLM
    runs its handlers in tasks of their own.
    """

    model: str | None = None
    begun: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tasks: set[asyncio.Task[object]] = field(default_factory=set)

    def begin(self) -> "asyncio.Task[object] | None":
        """An engine takes the request, in this task; `end` must follow with it."""
        self.begun = True
        task = asyncio.current_task()
        if task is not None:
            self.tasks.add(task)
        return task

    def end(self, task: "asyncio.Task[object] | None") -> None:
        if task is not None:
            self.tasks.discard(task)

    def cancel(self) -> None:
        """Gives up what waits for an engine, which aborts it there."""
        for task in self.tasks:
            task.cancel()


METER: ContextVar[Meter | None] = ContextVar("METER", default=None)
