"""Where log lines go: JSON lines in `api_server.log` and `jobs.log`, the engine's raw output in `gpu_worker.log`."""

import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path

from pythonjsonlogger.json import JsonFormatter

from switchyard.settings import Settings

SERVER_LOG = "api_server.log"
ENGINE_LOG = "gpu_worker.log"
JOBS_LOG = "jobs.log"
JOBS_LOGGER = "switchyard.jobs"
_OURS = ("switchyard", "gateway", "control", "evals")


def configure(component: str, settings: Settings) -> None:
    """Sends this process's records to the files, one JSON object a line, each naming `component`."""
    layout = settings.layout
    level = settings.log_level.upper()
    root = logging.getLogger()
    root.setLevel(level)
    for name in _OURS:  # libraries that vLLM imports turn the root's level up
        logging.getLogger(name).setLevel(level)
    root.handlers[:] = [_file_handler(layout.logs / SERVER_LOG, component)]
    jobs = logging.getLogger(JOBS_LOGGER)
    jobs.handlers[:] = [_file_handler(layout.logs / JOBS_LOG, component)]
    jobs.propagate = False
    for noisy in ("httpx", "httpcore", "alembic", "aiosqlite"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def redirect_output(path: Path) -> None:
    """Appends this process's stdout and stderr, and those of every process it starts, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def _file_handler(path: Path, component: str) -> logging.Handler:
    handler = WatchedFileHandler(path, encoding="utf-8")
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"component": component},
            timestamp="time",
        )
    )
    return handler
