"""Requests inside can be set aside, whole, while the scheduler works for a proof alone.

vLLM's pause stops its scheduler, which the proof of new weights needs, and its end lets everybody go on. So requests
that were kept inside during a change of weights went on before anybody knew whether those weights are right.
"""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.request import Request

SET_ASIDE = "stepserve_set_aside"
PUT_BACK = "stepserve_put_back"


class Aside:
    """The requests of one scheduler that wait for something else than their turn. Those with a priority up to
    `most_priority` are not kept.
    """

    def __init__(self, scheduler: Any, most_priority: int) -> None:
        self._scheduler = scheduler
        self._most_priority = most_priority
        self._requests: list[Request] = []

    def take(self) -> None:
        """From the queue of those that wait for their turn."""
        scheduler = self._scheduler
        taken = [request for request in scheduler.waiting if request.priority > self._most_priority]
        scheduler.waiting.remove_requests(taken)
        scheduler.deferred_waiting.difference_update(taken)
        self._requests += taken

    def put_back(self) -> None:
        """But for those that were aborted meanwhile."""
        for request in self._requests:
            if not request.is_finished():
                self._scheduler._enqueue_waiting_request(request)
        self._requests = []


def set_requests_aside() -> None:
    """For this process, which is an engine's: gives its core two methods that the front end can call."""
    from vllm.v1.core.sched.interface import PauseState
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    add_request = Scheduler.add_request

    def added(scheduler: Any, request: "Request") -> None:
        add_request(scheduler, request)
        aside: Aside | None = getattr(scheduler, "stepserve_aside", None)
        if aside is not None:
            aside.take()

    def set_aside(core: "EngineCore", most_priority: int) -> None:
        scheduler: Any = core.scheduler
        scheduler.reset_prefix_cache(reset_running_requests=True)  # which puts those that run among those that wait
        if getattr(scheduler, "stepserve_aside", None) is None:
            scheduler.stepserve_aside = Aside(scheduler, most_priority)
        scheduler.stepserve_aside.take()
        scheduler.set_pause_state(PauseState.UNPAUSED)

    def put_back(core: "EngineCore") -> None:
        scheduler: Any = core.scheduler
        aside: Aside | None = getattr(scheduler, "stepserve_aside", None)
        scheduler.stepserve_aside = None
        if aside is not None:
            aside.put_back()
        scheduler.set_pause_state(PauseState.UNPAUSED)

    Scheduler.add_request = added
    setattr(EngineCore, SET_ASIDE, set_aside)
    setattr(EngineCore, PUT_BACK, put_back)


PATCH = Patch(
    name="set_aside",
    changes="`EngineCore` has two more methods: requests inside leave the scheduler's queue and come back later;"
    " `Scheduler.add_request` puts those that come meanwhile to them.",
    why="vLLM's pause stops the scheduler, which the proof of new weights needs, and its end lets everybody go on.",
    without="None: requests kept inside during a change of weights would go on with weights that may be wrong.",
    gain="Not a matter of speed.",
    goes_when="vLLM's pause can let requests of one priority through.",
    required=True,
    targets={
        "vllm.v1.core.sched.scheduler:Scheduler.add_request": "fa2b51cd04a9",
        "vllm.v1.core.sched.scheduler:Scheduler._enqueue_waiting_request": "0afc41b2499c",
        "vllm.v1.core.sched.scheduler:Scheduler.reset_prefix_cache": "8e03dcc540a2",
        "vllm.v1.core.sched.scheduler:Scheduler.finish_requests": "b7a4ef7b8aa5",
        "vllm.v1.engine.core:EngineCoreProc.pause_scheduler": "e02778ea0e81",
    },
    in_engine=set_requests_aside,
)
