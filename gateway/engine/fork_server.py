"""Where an engine's process comes from: a fork of one that has imported vLLM already, where there is no GPU.

vLLM's own way there is two processes, one started by the other. Each needs seconds to import vLLM before it can do
anything, and in every step of the engine one waits for the other, in a loop that takes a core. Here a process that does
nothing else (`multiprocessing`'s fork server) has vLLM imported; an engine is one fork of it, begins at once and
schedules and computes in turn, as it does with one GPU. That process is itself a fork of the gateway, from the moment
when the gateway has imported vLLM and begun nothing. With a GPU vLLM's own way stays: whether all that CUDA needs
survives a fork was not seen.
"""

import logging
import os
import signal
import socket
import threading
import traceback
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import forkserver, parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, NoReturn

from gateway.engine import libraries
from stepserve.installed_vllm import is_cpu_build
from stepserve.logs import leave_logs
from stepserve.process import close_descriptors_but

log = logging.getLogger(__name__)

_PRELOADED = ["gateway.engine.process.preload"]
# Libraries read these when they are loaded, which in a fork was long ago.
_THREADS, _PLACES = "OMP_NUM_THREADS", ("OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

_STANDARD = (0, 1, 2)

_RANK = "is_driver_worker"  # among the arguments of vLLM's processes, those of a rank alone have it


def prepare() -> None:
    """Starts the process that engines are forked from unless it runs; returns before it has imported anything.

    It keeps the environment that this process has now; an engine's processes get that of the moment they start.
    """
    forkserver.set_forkserver_preload(_PRELOADED)
    before = os.environ.get(libraries.VARIABLE)
    os.environ[libraries.VARIABLE] = libraries.with_missing(before or "")
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[libraries.VARIABLE]
        else:
            os.environ[libraries.VARIABLE] = before


def fork_off() -> None:
    """Forks the process that engines are forked from off this one, which has imported vLLM and begun nothing: no event
    loop and no thread of Python's. Where there is one, `prepare` takes its place.

    Should that process die, the next engine has `multiprocessing` start one in its place, as `prepare` does.
    """
    if threading.active_count() > 1:
        log.info("threads run, so vLLM is imported a second time: %s", threading.enumerate())
        prepare()
        return
    forkserver.set_forkserver_preload(_PRELOADED)
    with socket.socket(socket.AF_UNIX) as listener:
        address = f"{get_temp_dir()}/starter"
        listener.bind(address)
        Path(address).chmod(0o600)
        listener.listen()
        alive_reader, alive_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become_starter(listener.fileno(), alive_reader)
        os.close(alive_reader)
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_writer, pid


def _become_starter(listener: int, alive_reader: int) -> NoReturn:
    """In the fork: gives up all that the gateway has, and becomes what `prepare` starts. Never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which engines have until vLLM sets its own
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        close_descriptors_but({*_STANDARD, listener, alive_reader})
        leave_logs()
        forkserver.main(listener, alive_reader, _PRELOADED)  # ends by SystemExit when the gateway is gone
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(0)


def starter_pid() -> int | None:
    """The process that engines are forked from, where there is one."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid


def for_gpu() -> bool:
    """Whether the vLLM that is installed is the one for GPUs. Imports nothing of it."""
    return not is_cpu_build()


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
