"""One gateway of a Ray cluster: an actor that runs it as a process of its own, on whichever node Ray has put it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib import import_module

from stepserve.starters.order import Order

_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_SAID_BYTES = 2000
_PORTS_TRIED = 100
# Ray gives a worker as many threads as it was promised cores; vLLM finds out by itself what it may use.
_RAYS_OWN = ("OMP_NUM_THREADS",)


@dataclass(frozen=True, slots=True)
class Report:
    """`trouble`: what the gateway's process said last, when it has ended without being asked to."""

    node: str
    port: int
    trouble: str | None


class ReplicaActor:
    """Started anew on another node by Ray, it starts the gateway there. `node`: its address in the cluster."""

    def __init__(self, order: Order, node: str | None = None) -> None:
        self._order = order
        self._node = node or _node_address()
        self._port = 0
        self._trouble: str | None = None
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._runner = threading.Thread(target=self._run, name=order.id, daemon=True)
        self._runner.start()

    def report(self) -> Report:
        return Report(self._node, self._port, self._trouble)

    def stop(self, timeout_s: float) -> None:
        """Asks the gateway to answer what it has and to end; ends it after `timeout_s`. Blocks until then."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()  # what it started follows within a second
        self._runner.join(timeout_s)

    def _run(self) -> None:
        """The process ends when it cannot start or is killed; what it supervises it starts again by itself."""
        rest_s = _FIRST_REST_S
        while not self._stopping.is_set():
            self._trouble = self._live() if self._begin() else "no port is free"
            self._stopping.wait(rest_s)
            rest_s = min(2 * rest_s, _LONGEST_REST_S)

    def _begin(self) -> bool:
        with self._starting:
            port = _free_port(self._node, self._order.first_port)
            if self._stopping.is_set() or port is None:
                return False
            self._port, self._trouble = port, None
            machine = {name: value for name, value in os.environ.items() if name not in _RAYS_OWN}
            environment = self._order.environment(machine, self._node, port)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepserve.starters.member"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            return True

    def _live(self) -> str | None:
        """What the process said last, once it has ended; it is asked to end when this actor is."""
        process = self._process
        assert process is not None, "it has begun"
        assert process.stderr is not None, "it is a pipe"
        said = b""
        with process.stderr as pipe:
            while more := os.read(pipe.fileno(), _SAID_BYTES):
                said = (said + more)[-_SAID_BYTES:]
        code = process.wait()
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        return last[0] if last else f"the gateway's process exited with code {code}"


def _node_address() -> str:
    return str(import_module("ray.util").get_node_ip_address())


def _free_port(host: str, first: int | None) -> int | None:
    """Any; or the first that is free from `first` on."""
    for port in [0] if first is None else range(first, first + _PORTS_TRIED):
        with contextlib.suppress(OSError), socket.create_server((host, port)) as listener:
            return int(listener.getsockname()[1])
    return None
