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
    if not fork_server.for_gpu():
        fork_server.prepare()
    ranks = importlib.import_module("gateway.engine.process.ranks")
    line = sys.stdin.buffer.readline()
    if line:
        ranks.compute(Start.model_validate_json(line))
    return 1  # an order has no end of its own


if __name__ == "__main__":
    raise SystemExit(main())
