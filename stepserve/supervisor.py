"""`stepserve up`: starts gateway and control, restarts what dies or freezes, ends both, and says where to find them."""

import asyncio
import errno
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TextIO

import setproctitle

from stepserve import hosts, logs, web_ui
from stepserve.banner import Announcer
from stepserve.base_lock import BaseInUse, hold
from stepserve.child import Child
from stepserve.full_disk import is_disk_full
from stepserve.privacy import make_private, open_to_others
from stepserve.settings import Settings

log = logging.getLogger(__name__)

EXIT_START_REFUSED = 2  # as for flags and settings; deploy/systemd does not try again then
_LEAST_FREE_BYTES = 16_000_000
_ENDING_S = 4.5  # of a process that has nothing more to answer; ended outright after that


class StartRefused(Exception):
    """The server cannot start here; the text is one sentence that says why and what to do."""


def run(settings: Settings, *, joins: bool = False) -> int:
    """Runs the server until SIGTERM, SIGINT or a fault that no restart can mend; returns the exit code.

    `joins`: a gateway alone, which is a member of the control plane that the settings name.

    Raises StartRefused before anything is started.
    """
    if settings.fleet.control is not None and not joins:
        raise StartRefused(
            "The setting fleet.control makes this a member of another control plane: start it with `stepserve join`,"
            " or take the setting away."
        )
    make_private()
    layout = settings.layout
    were_open = open_to_others(layout.kept_private)
    lock = claim(settings)
    setproctitle.setproctitle("stepserve: join" if joins else "stepserve: up")
    logs.configure("up", settings)
    _tell_of_open(were_open, open_to_others(layout.kept_private))
    try:
        return asyncio.run(_supervise(settings, ("gateway",) if joins else ("gateway", "control")))
    finally:
        lock.close()


def _tell_of_open(before: list[Path], now: list[Path]) -> None:
    if closed := [str(path) for path in before if path not in now]:
        log.warning("closed to other users of this machine, as they were open to them: %s", ", ".join(closed))
    if now:
        still = ", ".join(str(path) for path in now)
        log.warning(
            "open to other users of this machine, and a link or not this user's, so left as they are: %s", still
        )


def claim(settings: Settings) -> TextIO:
    """Makes the folders and takes the base directory's lock; one server a directory and a port. Raises StartRefused."""
    layout = settings.layout
    try:
        layout.create()
        lock = hold(layout)
        _check_room(layout.base)
    except OSError as error:
        raise StartRefused(_unusable(layout.base, error)) from error
    except BaseInUse as error:
        raise StartRefused(
            f"Another server (process {error.holder}) already runs on {layout.base}; stop it or set INFERENCE_BASE_DIR."
        ) from error
    try:
        hosts.read(settings.hosts_file, layout.base)
    except hosts.HostsRefused as error:
        lock.close()
        raise StartRefused(f"{error}.") from error
    try:
        _try_port(settings.host, settings.port)
    except OSError as error:
        lock.close()
        where = f"{settings.host}:{settings.port}"
        raise StartRefused(
            f"Cannot listen on {where}: {error.strerror}. Set INFERENCE_HOST or INFERENCE_PORT."
        ) from error
    return lock


def _check_room(base: Path) -> None:
    """Raises OSError where not even the database could be begun."""
    if shutil.disk_usage(base).free < _LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unusable(base: Path, error: OSError) -> str:
    place = f"The base directory {base}"
    if is_disk_full(error):
        return f"{place} lies on a full disk: make room there, or set INFERENCE_BASE_DIR."
    if base.exists() and not base.is_dir():
        return f"{place} cannot be used: it is a file. Set INFERENCE_BASE_DIR."
    at = f" ({error.filename})" if error.filename not in {None, str(base)} else ""
    return f"{place} cannot be used: {error.strerror or error}{at}. Set INFERENCE_BASE_DIR."


def _try_port(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _kill_all(children: list[Child]) -> None:
    for child in children:
        child.kill()


async def announce(settings: Settings, ui: Child | None) -> None:
    """Says that the server is ready, and only then starts what nobody has to wait for."""
    await Announcer(settings, web_ui.url_of(settings) if ui else None).run()
    if ui is not None:
        await ui.run()


async def until_over(running: dict[asyncio.Task[None], Child], stopped: asyncio.Task[bool]) -> str | None:
    """Until somebody asks for the end (None) or a process refuses to start (its name).

    Control that served and cannot start again (its database was damaged meanwhile) is no reason to end inference.
    """
    while True:
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
        refused = next((task for task in running if task.done()), None)
        if refused is None or stopped.done():
            return None
        child = running.pop(refused)
        if child.name != "control" or child.starts == 1:
            return child.name
        told = "control refused to start; see its message above. Inference on /v1 goes on without it"
        log.critical("%s", told)
        print(told, file=sys.stderr, flush=True)


async def _supervise(settings: Settings, names: tuple[str, ...]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    children = [Child(name, [sys.executable, "-m", name], hang_timeout_s=settings.hang_timeout_s) for name in names]
    # A terminal that is closed says the same as who wants the settings read again; that one has no terminal.
    loop.add_signal_handler(signal.SIGHUP, stop.set if sys.stdin.isatty() else children[0].hang_up)
    running = [asyncio.create_task(child.run(), name=child.name) for child in children]
    ui = web_ui.child_of(settings)
    announcer = asyncio.create_task(announce(settings, ui), name="announcer")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    refused = await until_over(dict(zip(running, children, strict=True)), stopped)

    announcer.cancel()
    if refused is None:
        patience = f"running requests may take {settings.drain_timeout_s:g} s, a second Ctrl-C ends them at once"
        print(f"\nStopping ({patience}) …", flush=True)
    else:
        log.error("%s refused to start; see its message above", refused)
    if ui is not None:
        children.append(ui)
    # A second Ctrl-C does not wait. A second SIGTERM says nothing new: SLURM sends it to a script, which passes it on,
    # and to us as well.
    loop.add_signal_handler(signal.SIGINT, _kill_all, children)
    await asyncio.gather(*(child.stop(settings.drain_timeout_s + _ENDING_S) for child in children))
    await asyncio.gather(*running, announcer, return_exceptions=True)
    stopped.cancel()
    return 0 if refused is None else EXIT_START_REFUSED
