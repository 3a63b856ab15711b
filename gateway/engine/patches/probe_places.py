"""Places for probes in a full engine: proofs of a switch, and a watchdog's question.

Priority orders those who wait and makes nobody leave. With `max_num_seqs` long answers running a proof would wait until
one of them ends, which may be later than a switch waits for it: a healthy candidate would be rolled back.
"""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch
from stepserve.settings import EngineSettings

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler

PLACES = 8  # more than a proof has prompts


def keep_places(config: "VllmConfig", _settings: EngineSettings) -> None:
    """Makes room for that many more than `max_num_seqs`, which stays the most for all others."""
    steps = config.scheduler_config
    if steps.max_num_active_seqs is None and steps.max_num_batched_tokens >= steps.max_num_seqs + PLACES:
        steps.max_num_active_seqs = steps.max_num_seqs
        steps.max_num_seqs += PLACES


def lend_places() -> None:
    """For this process, which is an engine's. Probes are the requests with a priority before people's."""
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule = Scheduler.schedule

    def lending(scheduler: "Scheduler", *args: Any, **options: Any) -> "SchedulerOutput":
        steps = scheduler.scheduler_config
        if steps.max_num_active_seqs is not None:
            probes = sum(request.priority < 0 for request in scheduler.requests.values())
            scheduler.max_num_active_reqs = min(steps.max_num_active_seqs + probes, steps.max_num_seqs)
        return schedule(scheduler, *args, **options)

    Scheduler.schedule = lending


PATCH = Patch(
    name="probe_places",
    changes="`max_num_seqs` is 8 larger, and only requests with a priority below 0 get those places.",
    why="vLLM's priority orders the waiting queue only: a full engine admits nothing, so a proof or a probe starves.",
    without="A proof in an engine full of long answers may come too late, and the switch is rolled back.",
    gain="A probe runs in the first step after it comes to a full engine (tests/e2e/engine_run.py, `probed`).",
    goes_when="vLLM preempts for priority, or reserves sequences for it.",
    targets={"vllm.v1.core.sched.scheduler:Scheduler.schedule": "da4f2cf2fc39"},
    on_config=keep_places,
    in_engine=lend_places,
)
