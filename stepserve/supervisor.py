"""`stepserve up`: starts gateway and control, restarts what dies or freezes, ends all, and says where to find them."""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import setproctitle

from stepserve import hosts, logs, web_ui
from stepserve.banner import Announcer
from stepserve.base_lock import BaseInUse, hold
from stepserve.child import Child
from stepserve.full_disk import is_disk_full
from stepserve.paths import Layout
from stepserve.privacy import make_private, open_to_others
from stepserve.replicas import (
    Replicas,
    ReplicasRefused,
    Share,
    environment_of,
    environment_of_share,
    replicas_of,
)
from stepserve.settings import Settings

log = logging.getLogger(__name__)

EXIT_START_REFUSED = 2  # as for flags and settings; deploy/systemd does not try again then
_LEAST_FREE_BYTES = 16_000_000
_GATEWAY = [sys.executable, "-m", "gateway"]
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
    if joins and (settings.replicas.count > 1 or settings.replicas.ray is not None):
        raise StartRefused(
            "`stepserve join` starts one gateway: take the settings replicas.count and replicas.ray away."
        )
    if settings.replicas.ray is not None and find_spec("ray") is None:
        raise StartRefused("--ray needs the package ray: it comes with the extra `ray` of stepserve-server.")
    make_private()
    layout = settings.layout
    were_open = open_to_others(layout.kept_private)
    try:
        replicas = replicas_of(settings, os.environ)
    except ReplicasRefused as error:
        raise StartRefused(str(error)) from error
    with claimed(settings, replicas):
        return _run(settings, replicas, were_open, joins=joins)


def _run(settings: Settings, replicas: Replicas, were_open: list[Path], *, joins: bool) -> int:
    layout = settings.layout
    setproctitle.setproctitle("stepserve: join" if joins else "stepserve: up")
    logs.configure("up", settings)
    _tell_of_open(were_open, open_to_others(layout.kept_private))
    children = _own_children(settings, replicas, joins=joins)
    return asyncio.run(_supervise(settings, children, _members(settings, replicas)))


def _own_children(settings: Settings, replicas: Replicas, *, joins: bool) -> list[Child]:
    """The gateway comes first."""
    share = replicas.head or Share()
    environment = environment_of_share(share, os.environ)  # control says of which cards this gateway is
    hang_timeout_s = settings.hang_timeout_s
    gateway = Child("gateway", _GATEWAY, environment, hang_timeout_s, share.cores)
    if joins:
        return [gateway]
    return [gateway, Child("control", [sys.executable, "-m", "control"], environment, hang_timeout_s)]


def _members(settings: Settings, replicas: Replicas) -> list[Child]:
    """Further gateways, or who has them started elsewhere."""
    children = [
        Child(
            each.id,
            _GATEWAY,
            environment_of(each, settings, os.environ),
            settings.hang_timeout_s,
            each.share.cores,
            insists=True,
        )
        for each in replicas.members
    ]
    if settings.replicas.ray is not None:
        children.append(Child("ray", [sys.executable, "-m", "stepserve.starters.ray_cluster"], insists=True))
    return children


def _tell_of_open(before: list[Path], now: list[Path]) -> None:
    if closed := [str(path) for path in before if path not in now]:
        log.warning("closed to other users of this machine, as they were open to them: %s", ", ".join(closed))
    if now:
        still = ", ".join(str(path) for path in now)
        log.warning(
            "open to other users of this machine, and a link or not this user's, so left as they are: %s", still
        )


@contextlib.contextmanager
def claimed(settings: Settings, replicas: Replicas) -> Iterator[None]:
    """Makes the folders and holds the locks of all base directories; one server a directory and a port.

    Raises StartRefused.
    """
    with contextlib.ExitStack() as locks:
        locks.enter_context(_locked(settings.layout))
        try:
            hosts.read(settings.hosts_file, settings.layout.base)
        except hosts.HostsRefused as error:
            raise StartRefused(f"{error}.") from error
        _check_port(settings.host, settings.port, "Set INFERENCE_HOST or INFERENCE_PORT.")
        for each in replicas.members:
            _check_port("127.0.0.1", each.port, f"{each.id} would listen there: set INFERENCE_REPLICAS__FIRST_PORT.")
        for each in replicas.members:
            locks.enter_context(_locked(each.layout))
        yield


def _locked(layout: Layout) -> TextIO:
    """Makes the folders and takes the lock. Raises StartRefused."""
    try:
        layout.create()
        lock = hold(layout)
    except OSError as error:
        raise StartRefused(_unusable(layout.base, error)) from error
    except BaseInUse as error:
        raise StartRefused(
            f"Another server (process {error.holder}) already runs on {layout.base}; stop it or set INFERENCE_BASE_DIR."
        ) from error
    try:
        _check_room(layout.base)
    except OSError as error:
        lock.close()
        raise StartRefused(_unusable(layout.base, error)) from error
    return lock


def _check_port(host: str, port: int, advice: str) -> None:
    """Raises StartRefused."""
    try:
        _try_port(host, port)
    except OSError as error:
        raise StartRefused(f"Cannot listen on {host}:{port}: {error.strerror}. {advice}") from error


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


async def _supervise(settings: Settings, own: list[Child], members: list[Child]) -> int:
    """`own`: the head's gateway, control. `members`: further gateways, which answer for the head as long as it runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    children = [*own, *members]
    # A terminal that is closed says the same as who wants the settings read again; that one has no terminal.
    loop.add_signal_handler(signal.SIGHUP, stop.set if sys.stdin.isatty() else lambda: _hang_up([own[0], *members]))
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
    first = own if ui is None else [*own, ui]
    # A second Ctrl-C does not wait. A second SIGTERM says nothing new: SLURM sends it to a script, which passes it on,
    # and to us as well.
    loop.add_signal_handler(signal.SIGINT, _kill_all, [*first, *members])
    until_s = time.monotonic() + settings.drain_timeout_s
    await _stop(first, settings.drain_timeout_s + _ENDING_S)
    await _stop(members, max(0.0, until_s - time.monotonic()) + _ENDING_S)
    await asyncio.gather(*running, announcer, return_exceptions=True)
    stopped.cancel()
    return 0 if refused is None else EXIT_START_REFUSED


async def _stop(children: list[Child], timeout_s: float) -> None:
    await asyncio.gather(*(child.stop(timeout_s) for child in children))


def _hang_up(children: list[Child]) -> None:
    for child in children:
        child.hang_up()
