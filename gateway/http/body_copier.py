"""The rest of a request's body, from the socket to a file, in a thread: the event loop sees none of it.

On the way through an event loop each byte is copied four times and waits for its turn among tokens. Here it is copied
into one small buffer and from there to the file, and Python has its lock only between two system calls.
"""

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from os import pwrite

from gateway.errors import RequestTimeout

_BUFFER_BYTES = 1024 * 1024
_DRAINED_BYTES = 128 * 1024 * 1024


class BodyCopier:
    """Takes over `descriptor`, a socket's, and closes it at the end. `written_bytes` is right at every moment.

    `turn` is the file's: the kernel lets one thread write to a file at a time, and those that wait there burn a core
    each (three of them took five times the processor time of one). While it waits for the client it looks every
    `look_up_s` whether it is to stop. It is woken earlier when `at_once_bytes` are there: woken for every little that
    comes, a thread that is as fast as its client makes twice the system calls.
    """

    def __init__(
        self,
        descriptor: int,
        file: int,
        position: int,
        length: int,
        turn: threading.Lock,
        patience_s: float,
        look_up_s: float = 0.5,
        at_once_bytes: int = 1,
    ) -> None:
        self._descriptor = descriptor
        self._file = file
        self._position = position
        self._left = length
        self._turn = turn
        self._patience_s = patience_s
        self._look_up_s = look_up_s
        self._at_once_bytes = at_once_bytes
        self._stopped = False
        self.written_bytes = 0

    def stop(self) -> None:
        """`run` returns soon. From any thread."""
        self._stopped = True

    def run(self, begun: list[bytes]) -> None:
        """Writes what has come already, then all that comes, until the body is complete or the client goes away.

        Blocks. Raises OSError when the file cannot be written, RequestTimeout when the client falls silent.
        """
        with socket.socket(fileno=self._descriptor) as client:
            try:
                for piece in begun:
                    self._write(memoryview(piece)[: self._left])
                self._each(client, self._write)
            except OSError:
                # A client that still sends would not read why it is refused.
                if self._left <= _DRAINED_BYTES:
                    self._each(client, self._skip)
                raise
            finally:
                _wake_at(client, 1)  # whoever reads the next request

    def _write(self, data: memoryview) -> None:
        self._left -= len(data)
        while data:
            with self._turn:
                count = pwrite(self._file, data, self._position + self.written_bytes)
            self.written_bytes += count
            data = data[count:]

    def _skip(self, data: memoryview) -> None:
        self._left -= len(data)

    def _each(self, client: socket.socket, take: Callable[[memoryview], None]) -> None:
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(1, self._left))))
        readable = select.poll()
        readable.register(client, select.POLLIN)
        heard_s = time.monotonic()
        while self._left and not self._stopped:
            count = _received(client, buffer[: self._left])
            if count == 0:
                return
            if count is not None:
                heard_s = time.monotonic()
                take(buffer[:count])
                continue
            if time.monotonic() - heard_s > self._patience_s:
                raise RequestTimeout(f"The client sent nothing more for {self._patience_s:g} s.")
            _wake_at(client, min(self._left, self._at_once_bytes))
            readable.poll(1000 * self._look_up_s)


def _wake_at(client: socket.socket, count: int) -> None:
    """A poll of it returns when so many bytes are there, or no more will come."""
    with suppress(OSError):  # it is gone
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def _received(client: socket.socket, buffer: memoryview) -> int | None:
    """0: the client is gone. None: nothing has come."""
    try:
        return client.recv_into(buffer)
    except BlockingIOError:
        return None
    except OSError:
        return 0
