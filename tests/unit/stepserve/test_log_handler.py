import json
import logging
import logging.config
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve import logs
from stepserve.log_handler import BackgroundHandler
from stepserve.request_id import job_id, request_id
from stepserve.settings import LogSettings, Settings


class HungDisk:
    """Takes nothing until `well`."""

    def __init__(self) -> None:
        self.well = threading.Event()
        self.entered = threading.Event()
        self.written = b""
        self._wrote = threading.Condition()

    def append(self, lines: bytes) -> None:
        self.entered.set()
        self.well.wait(240)
        with self._wrote:
            self.written += lines
            self._wrote.notify_all()

    def has(self, line: str) -> bool:
        """Whether that line is written, at the latest in half a minute."""
        with self._wrote:
            return self._wrote.wait_for(lambda: f"{line}\n".encode() in self.written, 240)

    def turn_over(self) -> None: ...


@pytest.fixture
def disk() -> Iterator[HungDisk]:
    disk = HungDisk()
    yield disk
    disk.well.set()


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(f"test {id(handler)}")
    logger.handlers[:] = [handler]
    logger.propagate = False
    return logger


def test_a_disk_that_hangs_keeps_nobody_waiting(disk: HungDisk) -> None:
    handler = BackgroundHandler(disk, logging.Formatter())
    logger = logger_to(handler)
    logger.warning("first")
    assert disk.entered.wait(240)
    started = time.perf_counter()
    for number in range(30_000):
        logger.warning("line %d", number)
    assert time.perf_counter() - started < 10
    assert handler.lost == 10_000, "what does not fit is lost and counted, not kept for ever"
    started = time.perf_counter()
    handler.close()
    assert time.perf_counter() - started < 5


def test_what_was_lost_is_said_when_the_disk_is_well(disk: HungDisk) -> None:
    handler = BackgroundHandler(disk, logging.Formatter())
    logger = logger_to(handler)
    logger.warning("first")
    assert disk.entered.wait(240)
    for number in range(20_005):
        logger.warning("line %d", number)
    disk.well.set()
    assert disk.has("line 19999")
    handler.close()
    lines = disk.written.decode().splitlines()
    assert lines[0] == "first"
    assert lines[-1] == "line 19999"
    assert [line for line in lines if "5 log lines were lost" in line]


def test_a_line_says_whose_work_it_was(tmp_path: Path) -> None:
    settings = Settings(base_dir=tmp_path, logs=LogSettings())
    settings.layout.create()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("gateway", settings)
        request_id.set("r-1")
        job_id.set("eval_1")
        try:
            raise ValueError("what went wrong")
        except ValueError:
            logging.getLogger("gateway.x").exception("it failed: %s", ["mutable"])
        logging.getLogger("stepserve.jobs").info({"event": "started", "job_id": "eval_2"})
        for handler in {*root.handlers, *logging.getLogger("stepserve.jobs").handlers} - set(before):
            handler.close()
        (line,) = [json.loads(line) for line in (tmp_path / "logs" / "api_server.log").read_text().splitlines()]
        (job,) = [json.loads(line) for line in (tmp_path / "logs" / "jobs.log").read_text().splitlines()]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("stepserve.jobs").handlers.clear()
        request_id.set(None)
        job_id.set(None)
    assert (line["message"], line["component"], line["level"]) == ("it failed: ['mutable']", "gateway", "ERROR")
    assert (line["request_id"], line["job_id"]) == ("r-1", "eval_1")
    assert "ValueError: what went wrong" in line["exc_info"]
    assert (job["event"], job["job_id"], job["request_id"]) == ("started", "eval_2", "r-1")


def test_a_forked_child_writes_by_itself(tmp_path: Path) -> None:
    class File:
        def append(self, lines: bytes) -> None:
            with (tmp_path / "log").open("ab") as file:
                file.write(lines)

        def turn_over(self) -> None: ...

    handler = BackgroundHandler(File(), logging.Formatter())
    logger = logger_to(handler)
    child = os.fork()
    if child == 0:
        logger.error("the child's last words")
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "log").read_text() == "the child's last words\n"
    handler.close()


def test_logs_go_on_after_a_library_has_configured_logging(disk: HungDisk) -> None:
    disk.well.set()
    handler = BackgroundHandler(disk, logging.Formatter())
    logger = logger_to(handler)
    logger.error("before")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logger.error("after")
    handler.close()
    assert disk.written == b"before\nafter\n"
