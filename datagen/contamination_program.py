"""`python -m datagen.contamination_program`: a JSON line in (`dataset`, `folder`, `sources`), the report as one out.

A process of its own: looking through gigabytes would hold up control, and may be ended at any time.
"""

import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from datagen.contamination import Source, contamination
from evals.errors import EvalError
from stepserve.process import follow_parent

_NICENESS = 5


def main() -> int:
    os.nice(_NICENESS)
    follow_parent(signal.SIGKILL)
    asked = json.loads(sys.stdin.readline())
    try:
        sources = [Source(**source) for source in asked["sources"]]
        answer: dict[str, Any] = {"report": contamination(Path(asked["dataset"]), sources, Path(asked["folder"]))}
    except (EvalError, OSError, sqlite3.Error, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
