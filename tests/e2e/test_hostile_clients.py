"""Clients that mean harm, while another one goes on as if nothing were."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.server import Server, answer_of
from tests.eventually import wait_until

PATHS = ["/v1/chat/completions", "/v1/messages", "/generate", "/api/chat"]


@contextlib.contextmanager
def another_client(server: Server) -> Iterator[None]:
    """Asks all the while; fails when any answer is not the right one."""
    stop = threading.Event()
    wrong: list[str] = []

    def ask_on() -> None:
        while not stop.is_set():
            response = server.ask("What is 17+25?")
            if response.status_code != 200 or answer_of(response) != "42":
                wrong.append(response.text)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not wrong


def raw(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=240)


def received(connection: socket.socket) -> bytes:
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_100_mb(server: Server, path: str) -> None:
    with another_client(server):
        response = server.http.post(
            path, content=b" " * 100_000_000, headers={"content-type": "application/json", "connection": "close"}
        )
    assert response.status_code == 413
    assert "max_request_bytes" in response.text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"active","prompt":"%b","max_tokens":9,"messages":[{"role":"user","content":"%b"}]}'
        % (b"x " * 1_000_000, b"x " * 1_000_000),
        b'{"model":"active","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"active","messages":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"model":"active","messages":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b'{"model":"active","prompt":"\xff\xfe"}',
        b'{"model":"active","max_tokens":9,"messages":[{"role":"user","content":"\xc3\x28"}]}',
        b'{"model":"\\ud800","prompt":"x","messages":[]}',
        b'{"model":"active","prompt":"\\ud800","max_tokens":9,"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"active","temperature":NaN,"options":{"temperature":NaN},"prompt":"x","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"active","max_tokens":' + b"9" * 5000 + b',"prompt":"x","messages":[{"role":"user","content":"x"}]}',
        b"\x00" * 1000,
        b'{"model":' * 3,
    ],
    ids=[
        "a million words", "very deep", "deep lists", "deep objects", "no UTF-8", "half UTF-8",
        "a surrogate as name", "surrogates", "NaN", "a long number", "zeros", "cut off",
    ],
)  # fmt: skip
def test_a_body_that_is_none(server: Server, path: str, body: bytes) -> None:
    response = server.http.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text
    assert set(response.json()) <= {"error", "detail", "code", "type"}
    assert "Traceback" not in response.text


def test_floods_of_headers_and_slow_senders(server: Server) -> None:
    """Slow ones are only there: what becomes of them is in the tests of access."""
    with another_client(server), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(raw(server)) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        flood = stack.enter_context(raw(server))
        with contextlib.suppress(ConnectionError):
            for number in range(100_000):
                flood.sendall(b"x-%d: y\r\n" % number if number else b"GET /generate HTTP/1.1\r\n")
        assert received(flood)[:12] in (b"HTTP/1.1 431", b"")
        answer_of(server.ask("What is 10+10?"))


@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
def test_a_client_that_closes_its_half_leaves_nothing_behind(server: Server, path: str) -> None:
    body = b'{"model":"active","prompt":"x","max_tokens":400,"temperature":2,"stream":true,"raw":true}'
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with another_client(server), raw(server) as whole, raw(server) as half:
        whole.sendall(head % (path.encode(), len(body)) + body)
        whole.shutdown(socket.SHUT_WR)
        half.sendall(head % (path.encode(), len(body)) + body[:20])
        half.shutdown(socket.SHUT_WR)
        assert received(half) == b""
        received(whole)

    def nothing_in_flight() -> bool:
        return all(engine["in_flight"] == 0 for engine in server.http.get("/status").json()["engines"])

    wait_until("both have left", nothing_in_flight, 240.0)


def test_the_log_has_no_traceback(server: Server) -> None:
    """vLLM writes one of its own for some of these requests, into gpu_worker.log."""
    logs = [path for path in (server.base_dir / "logs").iterdir() if path.name.startswith(("api_server", "jobs"))]
    assert logs
    for log in logs:
        lines = log.read_text(errors="replace").splitlines()
        assert [line for line in lines if "Traceback" in line] == [], log.name
