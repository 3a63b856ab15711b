"""A long body from a client to memory, against a bare copy: `python -m benchmarks.body_copy`.

Both on loopback and without a server: on one side httpx with the pieces that a push has and the gateway's thread that
copies a body, on the other a socket that sends and one that receives into memory. In turn; the figures are processor
time, so that other work on the machine counts little.
"""

import argparse
import os
import socket
import threading
import time
from collections.abc import Callable
from statistics import median

import httpx

from gateway.http.body_copier import BodyCopier
from stepserve.client.weights import in_pieces

AT_ONCE_BYTES = 512 * 1024  # as the gateway's pushes have it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    data = memoryview(os.urandom(1_000_000) * args.megabytes)
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "http": []}
    for _ in range(args.rounds):
        found["bare"].append(copied_s(lambda port: send_bare(port, data), lambda here: receive_bare(here, len(data))))
        found["http"].append(copied_s(lambda port: put(port, data), lambda here: take_body(here, len(data))))
    totals = {}
    for name, rounds in found.items():
        sent_s, received_s = (median(each[side] for each in rounds) for side in (0, 1))
        totals[name] = sent_s + received_s
        by_gb = 1000 / args.megabytes
        print(f"{name}: {by_gb * sent_s:.2f} s of a processor to send a GB, {by_gb * received_s:.2f} s to receive it")
    print(f"a bare copy takes {totals['bare'] / totals['http']:.2f} of the processor time of a body over HTTP")


def copied_s(send: Callable[[int], None], receive: Callable[[socket.socket], None]) -> tuple[float, float]:
    """Processor time of the two threads; `send` is given the port that the other listens to."""
    times: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def sending() -> None:
            begun_s = time.thread_time()
            send(listener.getsockname()[1])
            times.append(time.thread_time() - begun_s)

        sender = threading.Thread(target=sending)
        sender.start()
        here, _ = listener.accept()
        with here:
            begun_s = time.thread_time()
            receive(here)
            received_s = time.thread_time() - begun_s
        sender.join()
    return times[0], received_s


def send_bare(port: int, data: memoryview) -> None:
    with socket.create_connection(("127.0.0.1", port)) as there:
        there.sendall(data)


def receive_bare(here: socket.socket, size: int) -> None:
    target, position = memoryview(bytearray(size)), 0
    while position < size:
        position += here.recv_into(target[position : position + 1024 * 1024])


def put(port: int, data: memoryview) -> None:
    headers = {"content-length": str(len(data))}
    httpx.put(f"http://127.0.0.1:{port}/", content=map(bytes, in_pieces(data)), headers=headers, trust_env=False)


def take_body(here: socket.socket, size: int) -> None:
    """As the gateway does once it has read the head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += here.recv(1)
    file = os.memfd_create("body")
    here.setblocking(False)
    copier = BodyCopier(os.dup(here.fileno()), file, 0, size, threading.Lock(), 600.0, at_once_bytes=AT_ONCE_BYTES)
    copier.run([])
    assert copier.written_bytes == size
    os.close(file)
    here.setblocking(True)
    here.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


if __name__ == "__main__":
    main()
