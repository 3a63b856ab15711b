"""Forks off what engines are forked from, as the gateway does, and prints what a process knows that was forked there.

The arguments: `thread` for a gateway in which a thread runs already.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gateway.engine import fork_server
from stepserve.process import without_collector


def run_story(connection: Connection) -> None:
    """What an engine would find in its process."""
    told: dict[str, Any] = {
        "has_vllm": "vllm.v1.engine.core" in sys.modules,
        "has_gateway": "gateway.engine.engine" in sys.modules,
        "descriptors": [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()],
        "environment": os.environ.get("STARTER_RUN"),
        "signals": [
            signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            signal.getsignal(signal.SIGHUP) is signal.SIG_DFL,
        ],
        "thresholds": gc.get_threshold(),
        "parent": os.getppid(),
    }
    connection.send(told)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    if "thread" in sys.argv:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        with without_collector():
            importlib.import_module("gateway.engine.engine")
        fork_server.fork_off()
        os.environ["STARTER_RUN"] = "set since"
        reader, writer = fork_server.CONTEXT.Pipe(duplex=False)
        process = fork_server.CONTEXT.Process(target=run_story, args=(writer,))
        process.start()
        told = reader.recv()
        process.join()
        listening = str(Path(f"/proc/self/fd/{port.fileno()}").readlink())
    starter = fork_server.starter_pid()
    children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    print(json.dumps({**told, "listening": listening, "starter": starter, "is_child": starter in children}))
    os._exit(0)  # as the gateway ends


if __name__ == "__main__":
    main()
