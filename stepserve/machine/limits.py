"""What the operating system or a container allows: devices for the ranks, shared memory, open files."""

import os
import resource
import shutil
from pathlib import Path

from stepserve.devices import devices_here
from stepserve.engine_arguments import ranks_of
from stepserve.machine.trouble import Trouble
from stepserve.placement import Device
from stepserve.settings import Settings

_SHARED_MEMORY = Path("/dev", "shm")
_SHARED_BYTES, _SHARED_BYTES_OF_RANKS = 32 * 1024**2, 1024**3  # ranks exchange tensors there
_OWN_FILES = 512  # checkpoints that are read, processes, logs, the database
_MIB = 1024**2


def devices(settings: Settings) -> str:
    found, ranks = devices_here(), ranks_of(settings.engine.args)
    count, kind = (len(os.sched_getaffinity(0)), "cores") if _is_memory(found) else (len(found), "cards")
    if ranks > count:
        raise Trouble(
            f"engine.args asks for {ranks} ranks and there are {count} {kind}: lower tensor_parallel_size or"
            " pipeline_parallel_size"
        )
    shown = "" if _is_memory(found) else "".join(f"; {card.name}: {card.kind}" for card in found)
    return f"{ranks} of {count} {kind} for an engine{shown}"


def shared_memory(settings: Settings) -> str:
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError as error:
        raise Trouble(f"{_SHARED_MEMORY} is not there ({error.strerror}): mount a tmpfs on it") from None
    needed = _SHARED_BYTES if ranks_of(settings.engine.args) == 1 else _SHARED_BYTES_OF_RANKS
    if free < needed:
        raise Trouble(
            f"{free // _MIB} MiB are free in {_SHARED_MEMORY} and {needed // _MIB} are needed: give a container"
            " `--shm-size 4g`, or remount it with a larger size="
        )
    return f"{free // _MIB} MiB free in {_SHARED_MEMORY}"


def open_files(settings: Settings) -> str:
    """The gateway raises its own limit up to the hard one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_held_requests + settings.limits.max_silent_connections + _OWN_FILES
    if most != resource.RLIM_INFINITY and most < needed:
        raise Trouble(
            f"a process may open {most} files and {needed} are needed, a connection each: raise the hard limit"
            " (LimitNOFILE= of the unit, `ulimit -Hn`), or lower INFERENCE_MAX_HELD_REQUESTS"
        )
    return "unlimited" if most == resource.RLIM_INFINITY else f"{most} may be open, {needed} are needed"


def _is_memory(found: list[Device]) -> bool:
    return len(found) == 1 and found[0].kind == "cpu"
