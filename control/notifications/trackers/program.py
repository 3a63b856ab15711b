"""`python -m control.notifications.trackers.program`: logs the entry that it reads, a JSON line, and says how it went.

A process for each entry: what a tracker's library does to its process, prints, or waits for, ends with it.
"""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from control.notifications.trackers.entry import Destination, Entry
from control.notifications.trackers.known import GROUP, KNOWN
from stepserve.process import follow_parent

log = logging.getLogger(__name__)

_LONGEST_ERROR = 400


def main() -> int:
    follow_parent(signal.SIGKILL)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the answer goes out alone; libraries print elsewhere
    asked = json.loads(sys.stdin.readline())
    try:
        _log(asked)
        error = None
    except Exception as failure:  # another package's code: the boundary of this process
        log.exception("the entry was not logged")
        error = f"{type(failure).__name__}: {failure}"[:_LONGEST_ERROR]
    answers.write(json.dumps({"error": error}) + "\n")
    answers.flush()
    return 0


def _log(asked: dict[str, Any]) -> None:
    there = Destination(asked["options"], Path(asked["folder"]), frozenset(asked["hosts"]))
    there.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _tracker(asked["tracker"])(there, Entry(**asked["entry"]))


def _tracker(name: str) -> Callable[[Destination, Entry], object]:
    if name in KNOWN:
        found: Callable[[Destination, Entry], object] = importlib.import_module(KNOWN[name].module).log
        return found
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        raise LookupError(f"the tracker {name!r} is not installed any more")
    installed: Callable[[Destination, Entry], object] = point.load()
    return installed


if __name__ == "__main__":
    sys.exit(main())
