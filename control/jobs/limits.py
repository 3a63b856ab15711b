"""How much the worker may do at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from control.jobs.window import Window


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """`poll_s`: how soon a change is seen that nobody told the worker of, such as SQL by hand.

    `max_concurrent_jobs` counts those of the engine; standalone ones run beside them, `max_standalone` of each type.
    """

    max_concurrent_jobs: int
    batch_items: int
    window: Window
    lease_s: float
    poll_s: float = 1.0
    max_concurrent_by_type: Mapping[str, int] = field(default_factory=dict)
    retries: int = 20
    max_standalone: int = 2
