"""A logging handler that never waits for a disk: a bounded queue, and a thread that formats and writes."""

import contextlib
import copy
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from stepserve.request_id import job_id, request_id

_LONGEST_QUEUE = 20_000
_LONGEST_WRITE_LINES = 512
_LOOK_AROUND_S = 5.0
_GATHER_S = 0.02  # waking for every line would take the interpreter from the requests each time
_CLOSE_TIMEOUT_S = 1.0


class Sink(Protocol):
    def append(self, lines: bytes) -> None: ...

    def turn_over(self) -> None: ...


class BackgroundHandler(logging.Handler):
    """Takes a record in microseconds, whatever the sink does. What does not fit into the queue is lost and counted.

    A line says how many were lost once the sink is well again. A forked child has no such thread, and may end right
    after its most important line: it writes by itself.
    """

    def __init__(self, sink: Sink, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lost = 0
        self._sink = sink
        self._reported = 0
        self._pid = os.getpid()
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(_LONGEST_QUEUE)
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()  # a closed handler's thread may still write when the next one begins

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._pid:
            self._guarded(self._write, [record])
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="stepserve-log", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(self._prepared(record))
        except queue.Full:
            self.lost += 1

    def flush(self) -> None:
        """Nothing: waiting for the disk is what this handler is for."""

    def close(self) -> None:
        """Gives the thread a second to write what is left. The next record opens it again: whoever calls
        logging.config.dictConfig, as libraries do, closes every handler there is.
        """
        thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._pid:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            thread.join(_CLOSE_TIMEOUT_S)
        super().close()

    def createLock(self) -> None:
        self.lock = None  # the queue has one; a lock held during a fork would never be released in the child

    def _prepared(self, record: logging.LogRecord) -> logging.LogRecord:
        """What may change or vanish later is taken now: arguments, the traceback, whose work it was."""
        own = copy.copy(record)
        if not isinstance(own.msg, dict):
            own.msg, own.args = own.getMessage(), None
        if own.exc_info:
            assert self.formatter is not None
            own.exc_text = own.exc_text or self.formatter.formatException(own.exc_info)
            own.exc_info = None
        for name, known in (("request_id", request_id), ("job_id", job_id)):
            value = known.get()
            said = isinstance(own.msg, dict) and name in own.msg
            if value is not None and not said and not hasattr(own, name):
                setattr(own, name, value)
        return own

    def _work(self) -> None:
        while True:
            records: list[logging.LogRecord | None] = []
            try:
                records.append(self._queue.get(timeout=_LOOK_AROUND_S))
                time.sleep(_GATHER_S)
                while len(records) < _LONGEST_WRITE_LINES:
                    records.append(self._queue.get_nowait())
            except queue.Empty:
                pass
            with self._writing:
                self._guarded(self._write, [record for record in records if record is not None])
            if None in records:
                return

    def _write(self, records: list[logging.LogRecord]) -> None:
        if not records:
            self._sink.turn_over()
            return
        lines = [self.format(record) for record in records]
        if (lost := self.lost) > self._reported:
            lines.append(self.format(_lost_record(lost - self._reported)))
            self._reported = lost
        self._sink.append("".join(f"{line}\n" for line in lines).encode())

    def _guarded(self, work: Callable[[list[logging.LogRecord]], None], records: list[logging.LogRecord]) -> None:
        try:
            work(records)
        except (OSError, ValueError, TypeError) as error:  # the disk's, and what is no JSON
            # Where logs cannot be written, saying so in a log is no help, and ending the process is worse.
            self.lost += len(records)
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"stepserve: {len(records)} log lines could not be written: {error}\n")


def _lost_record(count: int) -> logging.LogRecord:
    text = f"{count} log lines were lost before this one: the disk was too slow or refused them"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
