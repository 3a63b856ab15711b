"""A body that a thread copies from a socket to a file, whatever the client does meanwhile."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import RequestTimeout
from gateway.http.body_copier import BodyCopier

BODY = os.urandom(3_000_000)


class Copy:
    """`client` sends; the file is `path`, the copier's place in it begins at byte 10."""

    def __init__(self, path: Path, patience_s: float = 20.0, look_up_s: float = 0.1) -> None:
        self.client, server = socket.socketpair()
        server.setblocking(False)
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.copier = BodyCopier(server.detach(), self.file, 10, len(BODY), threading.Lock(), patience_s, look_up_s)

    def close(self) -> None:
        self.client.close()
        os.close(self.file)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def test_every_byte_is_in_its_place(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    copy = Copy(tmp_path / "file")
    copied = pool.submit(copy.copier.run, [BODY[:1000], b"", BODY[1000:70_000]])
    copy.client.sendall(BODY[70_000:] + b"the next request")
    copied.result(240)
    copy.close()
    assert copy.path.read_bytes() == bytes(10) + BODY
    assert copy.copier.written_bytes == len(BODY)


def test_a_client_that_leaves(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    copy = Copy(tmp_path / "file")
    copied = pool.submit(copy.copier.run, [BODY[:1000]])
    copy.client.sendall(BODY[1000:300_000])
    copy.client.close()
    copied.result(240)
    assert copy.copier.written_bytes == 300_000
    assert copy.path.read_bytes()[10:300_010] == BODY[:300_000]
    os.close(copy.file)


def test_a_client_that_falls_silent(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    copy = Copy(tmp_path / "file", patience_s=0.6)
    copied = pool.submit(copy.copier.run, [BODY[:1000]])
    copy.client.sendall(BODY[1000:5000])
    with pytest.raises(RequestTimeout):
        copied.result(240)
    assert copy.copier.written_bytes == 5000
    copy.close()


def test_a_disk_that_is_full_lets_the_client_finish(pool: ThreadPoolExecutor) -> None:
    copy = Copy(Path("/dev/full"))
    copied = pool.submit(copy.copier.run, [b""])
    copy.client.sendall(BODY)  # all of it is taken, or a client would never read the answer
    with pytest.raises(OSError, match="No space left"):
        copied.result(240)
    copy.close()


def test_nothing_is_waited_for_once_all_is_there(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    copy = Copy(tmp_path / "file", look_up_s=3600.0)
    copied = pool.submit(copy.copier.run, [BODY[:1000]])
    copy.client.sendall(BODY[1000:])
    copied.result(240)
    copy.close()


def test_whoever_reads_the_connections_next_request_hears_of_its_first_byte(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Also after a client that made the copier wait, in which little at a time has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    copier = BodyCopier(os.dup(server.fileno()), file, 0, len(BODY), threading.Lock(), 240.0, 0.05, 512 * 1024)
    copied = pool.submit(copier.run, [])
    client.sendall(BODY[:1000])
    while copier.written_bytes < 1000:
        assert not copied.done()
    client.sendall(BODY[1000:])
    copied.result(240)
    client.sendall(b"G")
    assert select.select([server], [], [], 240.0)[0] == [server]
    assert (tmp_path / "file").read_bytes() == BODY
    for each in (client, server):
        each.close()
    os.close(file)


def test_it_can_be_stopped(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    copy = Copy(tmp_path / "file")
    copied = pool.submit(copy.copier.run, [b""])
    copy.copier.stop()
    copied.result(240)
    assert copy.copier.written_bytes == 0
    copy.close()
