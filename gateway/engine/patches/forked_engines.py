"""Without a GPU, engines begin as forks of a process that has imported vLLM (gateway.engine.fork_server)."""

from gateway.engine.fork_server import CONTEXT
from gateway.engine.patches.patch import Patch
from stepserve.settings import EngineSettings


def are_forked(settings: EngineSettings) -> bool:
    from vllm.platforms import current_platform

    is_cpu: bool = current_platform.is_cpu()
    return is_cpu and "forked_engines" not in settings.patches.off


def fork_engines(settings: EngineSettings) -> None:
    """For this process, which starts engines."""
    import vllm.v1.engine.utils

    if are_forked(settings):
        vllm.v1.engine.utils.get_mp_context = lambda: CONTEXT


def fork_workers() -> None:
    """For the process that engines are forked from: a model that needs several processes starts the others so too."""
    import vllm.v1.executor.multiproc_executor

    vllm.v1.executor.multiproc_executor.get_mp_context = lambda: CONTEXT


PATCH = Patch(
    name="forked_engines",
    changes="On the CPU, `get_mp_context` gives a context whose processes are forks of one that has imported vLLM.",
    why="vLLM spawns two processes, and each needs seconds to import vLLM.",
    without="An engine starts in about 14 s instead of 1.5 to 4 and ends in 5 s instead of 1.6; so does each restart.",
    gain="Restart of a tiny model on two cores: 18 s to about 4 s (decision 7).",
    goes_when="vLLM starts engines from a fork server that has imported it.",
    targets={
        "vllm.v1.engine.utils:get_mp_context": "8b045a017577",
        "vllm.v1.executor.multiproc_executor:get_mp_context": "8b045a017577",
        "vllm.utils.ompmultiprocessing:OMPProcessManager.configure_omp_envs": "4091efe94c2c",
    },
    before_engine=fork_engines,
)
