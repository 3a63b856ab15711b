"""A call to every rank of a model is answered by every rank, also when one of them fails.

vLLM reads the ranks' replies in turn and raises at the first that failed; the rest stay in their queues and are read as
replies to the next call. An adapter that does not load on two ranks would make the next switch fail, and what fails on
the second rank alone would be told one call too late.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class RankFailed:
    """The reply of a rank on which the call raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = f"{type(error).__name__}: {error}"


def attempt(method: Any, worker: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs in a worker. What the call raises is its reply."""
    try:
        if isinstance(method, str):
            return getattr(worker, method)(*args, **kwargs)
        return method(worker, *args, **kwargs)
    except Exception as error:
        import logging

        logging.getLogger("vllm").exception("the call of %s failed on this rank", method)
        return RankFailed(error)


def hear_all_ranks() -> None:
    """For this process, which is an engine's core."""
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    call = MultiprocExecutor.collective_rpc

    def heard(
        executor: "MultiprocExecutor",
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        if executor.world_size == 1 or any(value is not None and value is not False for value in options.values()):
            return call(executor, method, timeout, args, kwargs, **options)
        return replies(method, call(executor, partial(attempt, method), timeout, args, kwargs))

    MultiprocExecutor.collective_rpc = heard


def replies(method: Any, heard: list[Any]) -> list[Any]:
    """Raises RuntimeError when a rank failed, once all have been heard."""
    for rank, reply in enumerate(heard):
        if isinstance(reply, RankFailed):
            raise RuntimeError(  # noqa: TRY004 - as vLLM says it
                f"{method} failed on rank {rank} of {len(heard)}: {reply.error}"
            )
    return heard


PATCH = Patch(
    name="replies_of_all_ranks",
    changes="`MultiprocExecutor.collective_rpc` hears every rank before it raises what one of them raised.",
    why="vLLM stops at the first rank that failed and takes the others' replies for those of the next call.",
    without="With more than one rank, what fails on a later rank is noticed one call too late, and a failed adapter"
    " makes the next switch fail.",
    gain="Not a matter of speed: calls to all ranks are a few in each switch, and no step is one.",
    goes_when="vLLM reads every rank's reply to a call before it raises.",
    required=True,
    targets={
        "vllm.v1.executor.multiproc_executor:MultiprocExecutor.collective_rpc": "936c16152d71",
        "vllm.v1.executor.multiproc_executor:WorkerProc._execute_worker_rpc": "4d7c21576f26",
    },
    in_engine=hear_all_ranks,
)
