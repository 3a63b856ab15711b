"""How much the worker may do at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from control.jobs.backoff import FIRST_REST_S
from control.jobs.window import Window


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """`poll_s`: how soon a change is seen that nobody told the worker of, such as SQL by hand.

    `rest_s`: how long a job is left alone after its first setback, and while its model is out of the engine.
    `max_concurrent_jobs` counts those of the engine; standalone ones run beside them, `max_standalone` of each type.
    """

    max_concurrent_jobs: int
    batch_items: int
    window: Window
    lease_s: float
    poll_s: float = 1.0
    rest_s: float = FIRST_REST_S
    max_concurrent_by_type: Mapping[str, int] = field(default_factory=dict)
    retries: int = 20
    max_standalone: int = 2
