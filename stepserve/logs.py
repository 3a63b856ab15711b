"""Where log lines go: JSON lines in `api_server.log` and `jobs.log`, the engine's raw output in `gpu_worker.log`."""

import atexit
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from stepserve.log_file import LogFile
from stepserve.log_handler import BackgroundHandler
from stepserve.settings import Settings

SERVER_LOG = "api_server.log"
ENGINE_LOG = "gpu_worker.log"
JOBS_LOG = "jobs.log"
JOBS_LOGGER = "stepserve.jobs"
ENGINE_LOGGER = "vllm"
COMPONENTS = {"api_server": SERVER_LOG, "gpu_worker": ENGINE_LOG, "jobs": JOBS_LOG}
_OURS = ("stepserve", "gateway", "control", "evals", "datagen")


def configure(component: str, settings: Settings) -> None:
    """Sends this process's records to the files, one JSON object a line, each naming `component`.

    No record is written by the thread that makes it: see stepserve.log_handler.
    """
    level = settings.log_level.upper()
    root = logging.getLogger()
    root.setLevel(level)
    for name in _OURS:  # libraries that vLLM imports turn the root's level up
        logging.getLogger(name).setLevel(level)
    terminal = _terminal(component, settings)
    root.handlers[:] = [_file_handler(SERVER_LOG, component, settings), *terminal]
    jobs = logging.getLogger(JOBS_LOGGER)
    jobs.handlers[:] = [_file_handler(JOBS_LOG, component, settings), *terminal]
    jobs.propagate = False
    for noisy in ("httpx", "httpcore", "alembic", "aiosqlite", "opentelemetry"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    atexit.register(close)


def close() -> None:
    """Writes what is left, for a second at most; lines that come later are still taken."""
    for handler in _handlers():
        handler.close()


def leave_logs() -> None:
    """For a fork that is to log as a process does that has configured nothing: to standard error."""
    for name in (None, JOBS_LOGGER):
        logging.getLogger(name).handlers.clear()


def take_over_engine_log(settings: Settings) -> None:
    """What vLLM logs in this process goes to the engine's file like all else: in the background, never by its event
    loop. Also keeps that file from growing for ever. To be called when vLLM has been imported.
    """
    logger = logging.getLogger(ENGINE_LOGGER)
    own = logger.handlers[0].formatter if logger.handlers else None  # one look for the lines of all engine processes
    handler = _file_handler(ENGINE_LOG, "gateway", settings, raw_writers=True)
    handler.setFormatter(own or logging.Formatter())
    logger.handlers[:] = [handler]


def redirect_output(path: Path) -> None:
    """Appends this process's stdout and stderr, and those of every process it starts, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def lost_lines() -> int:
    """How many this process could not write."""
    return sum(handler.lost for handler in _handlers())


def _handlers() -> set[BackgroundHandler]:
    loggers = [logging.getLogger(name) for name in (None, JOBS_LOGGER, ENGINE_LOGGER)]
    return {each for logger in loggers for each in logger.handlers if isinstance(each, BackgroundHandler)}


class _Terminal:
    """The terminal, or whoever collects a container's output, as it was when the process started."""

    def __init__(self) -> None:
        self._descriptor = os.dup(sys.stderr.fileno())

    def append(self, lines: bytes) -> None:
        while lines:
            lines = lines[os.write(self._descriptor, lines) :]

    def turn_over(self) -> None:
        """A terminal has no end."""


def _terminal(component: str, settings: Settings) -> list[logging.Handler]:
    match settings.logs.terminal:
        case "off":
            return []
        case "json":
            return [BackgroundHandler(_Terminal(), json_lines(component))]
        case "text":
            return [BackgroundHandler(_Terminal(), _Text(component))]


def _file_handler(name: str, component: str, settings: Settings, *, raw_writers: bool = False) -> logging.Handler:
    wish = settings.logs
    file = LogFile(settings.layout.logs / name, wish.max_bytes, wish.backups, raw_writers=raw_writers)
    return BackgroundHandler(file, json_lines(component))


class _Json(JsonFormatter):
    def format(self, record: logging.LogRecord) -> str:
        """A line that is only facts, as every request leaves one, is put together without looking for what else a
        record may hold.
        """
        if not isinstance(record.msg, dict) or record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        whose = {name: getattr(record, name) for name in ("request_id", "job_id") if hasattr(record, name)}
        when = datetime.fromtimestamp(record.created, tz=UTC).isoformat()
        who = {"level": record.levelname, "logger": record.name, **self.static_fields}
        return json.dumps({**who, **record.msg, **whose, "time": when}, default=str)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        if not log_data["message"]:  # a line that is only facts
            del log_data["message"]
        log_data.pop("vllm_process_name", None)  # which vLLM puts on every record there is
        return log_data


def json_lines(component: str) -> logging.Formatter:
    return _Json(
        "{levelname}{name}{message}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={"component": component},
        timestamp="time",
    )


class _Text(logging.Formatter):
    """One line for a person: when, how bad, who, what, and whose request it was."""

    def __init__(self, component: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s " + component + " %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, dict):
            record.message = " ".join(f"{key}={value}" for key, value in record.msg.items())
        whose = " ".join(str(getattr(record, name)) for name in ("request_id", "job_id") if hasattr(record, name))
        return super().formatMessage(record) + (f" [{whose}]" if whose else "")
