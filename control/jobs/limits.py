"""How much the job runner may do at a time, and how much of a job may be asked and not yet answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from control.jobs.ending import FIRST_BACKOFF_S

# As many items as the engine runs at once, as many again that wait in it for a place, and as many as both that are on
# their way there or back: with fewer the engine waits whenever a request of them is being scored.
_FULL_ENGINES = 4


@dataclass(frozen=True, slots=True)
class Window:
    """`fixed_items`: what the settings say, or None for a window after the engine's own size.

    `max_num_seqs` is of engines that are started as the settings say, `batch_items` the size of one request.
    """

    max_num_seqs: int
    batch_items: int
    fixed_items: int | None = None

    def items(self, max_num_seqs: int | None = None) -> int:
        """For a model whose engine runs so many sequences at once, where it has a number of its own.

        A request's items come back together, so the window never holds fewer than two requests.
        """
        if self.fixed_items is not None:
            return self.fixed_items
        return max(_FULL_ENGINES * (max_num_seqs or self.max_num_seqs), 2 * self.batch_items)


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """`poll_s`: how soon a change is seen that nobody told the runner of, such as SQL by hand.

    `backoff_s`: how long a job is left alone after its first failed attempt, and while its model is out of the engine.
    `max_concurrent_jobs` counts those of the engine; standalone ones run in addition, `max_standalone` of each type.
    """

    max_concurrent_jobs: int
    batch_items: int
    window: Window
    lease_s: float
    poll_s: float = 1.0
    backoff_s: float = FIRST_BACKOFF_S
    max_concurrent_by_type: Mapping[str, int] = field(default_factory=dict)
    retries: int = 20
    max_standalone: int = 2
