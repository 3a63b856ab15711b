"""A node's ranks of a model whose engine is on another machine: `python -m gateway.engine.process.headless`.

Imports vLLM, waits for one order on standard input, and carries it out until one of its ranks has ended.
"""

import importlib
import signal
import sys

import setproctitle

from gateway.engine import fork_server
from gateway.engine.patches import environment
from gateway.nodes.messages import Start
from stepserve.process import follow_parent


def main() -> int:
    setproctitle.setproctitle("stepserve: node's ranks")
    follow_parent(signal.SIGKILL)
    environment.set_defaults(1)  # a front end alone reads the bound
    if fork_server.for_gpu():
        importlib.import_module("gateway.engine.process.ranks")
    else:
        fork_server.prepare()  # imports vLLM, once for all that it forks
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    if fork_server.for_gpu():
        carry_out(line)
    else:
        process = fork_server.CONTEXT.Process(target=carry_out, args=(line,))
        process.start()
        process.join()
    return 1  # an order has no end of its own


def carry_out(line: bytes) -> None:
    """In the process that starts the ranks. Returns when one of them has ended."""
    follow_parent(signal.SIGKILL)
    importlib.import_module("gateway.engine.process.ranks").compute(Start.model_validate_json(line))


if __name__ == "__main__":
    raise SystemExit(main())
