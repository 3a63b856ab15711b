"""What vLLM reads from the environment: set before it is imported, here and where engines begin."""

import os
from pathlib import Path

from gateway.engine.patches.patch import Patch
from stepserve.contract import MAX_STOP_TEXTS
from stepserve.engine_arguments import ranks_of
from stepserve.settings import EngineSettings

_SOCKETS = "VLLM_RPC_BASE_PATH"
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_IS_BOUND = _BINDING in os.environ  # by whoever started the gateway
_CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"


def set_defaults(max_sequences_per_request: int) -> None:
    """`max_sequences_per_request`: vLLM's own bounds on `n` and on prompts are drawn there too."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # inference never downloads anything
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # A host that may be asked for pictures must not send us to another one (EngineSettings.media_domains).
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    # The requests are done when an engine is ended; what is left has nothing to say, and a restart waits for it.
    os.environ.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "2")
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", str(max_sequences_per_request))
    os.environ.setdefault("VLLM_MAX_COMPLETION_PROMPTS", str(max_sequences_per_request))
    os.environ.setdefault("VLLM_MAX_STOP_STRINGS", str(MAX_STOP_TEXTS))  # 4 otherwise, which is OpenAI's limit alone


def keep_sockets_in(folder: Path) -> None:
    """Where vLLM's sockets lie, unless the variable was set; what killed processes left there is removed. Blocks.

    Raises OSError.
    """
    if _SOCKETS in os.environ:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.iterdir():
        left.unlink(missing_ok=True)
    os.environ[_SOCKETS] = str(folder)


def set_for_engine(settings: EngineSettings) -> None:
    """What has no flag, and is read while an engine's configuration is made, or by its processes."""
    from vllm.platforms import current_platform

    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = str(int("finite_answers" not in settings.patches.off))
    if current_platform.is_cpu():
        if "kv_cache_memory_bytes" in settings.args:  # which the variable would take the place of
            os.environ.pop(_CACHE_GIB, None)
        else:
            os.environ[_CACHE_GIB] = str(settings.cpu_kv_cache_gib)
        if not _IS_BOUND:
            _bind(settings)


def _bind(settings: EngineSettings) -> None:
    """Shares the cores out among the ranks of this engine; the next one may have others."""
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

    from gateway.engine.cores import Core, binding

    os.environ.pop(_BINDING, None)
    if (ranks := ranks_of(settings.args)) == 1:
        return
    cores = [Core(cpu.id, cpu.physical_core, cpu.numa_node) for cpu in get_allowed_cpu_list()]
    if (parts := binding(ranks, cores)) is not None:
        os.environ[_BINDING] = parts


PATCH = Patch(
    name="environment",
    changes="No downloads, usage reports or redirects of media, 2 s for a worker's end, bounds on `n`, prompts and stop"
    " strings, and sockets in the base directory instead of /tmp. Besides the size of the CPU's KV cache, whether NaN"
    " is counted, and which cores a rank computes on where a model has more than one. All but the size and the counting"
    " leave a variable as it was set.",
    why="vLLM has no flags for these.",
    without="vLLM would download, report, follow redirects to hosts that are not allowed, and wait longer at an end.",
    gain="Not a matter of speed.",
    goes_when="vLLM has flags for these.",
    required=True,
    before_engine=set_for_engine,
)
