"""In the place of a node's ranks: reads an order and computes nothing, until it is ended. `fail` in the model's id: it
ends by itself. Says what it does in files of the folder that it is given.
"""

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    order = json.loads(sys.stdin.readline() or "null")
    if order is None:
        return
    facts = {"pid": os.getpid(), "node_rank": order["node_rank"], "key": os.environ.get("INFERENCE_NODES__KEY")}
    written = folder / f"{os.getpid()}.tmp"
    written.write_text(json.dumps(facts))
    written.rename(folder / f"{order['number']}-{order['node_rank']}.json")
    if "fail" in order["model"]["id"]:
        raise SystemExit(3)
    signal.pause()


if __name__ == "__main__":
    main()
