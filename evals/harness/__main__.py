"""`python -m evals.harness FOLDER HARNESS`: installs a harness into the folder of environments."""

import sys
from pathlib import Path
from typing import get_args

from evals.harness.environments import HarnessEnvironments, NotMade
from stepserve.jobs.eval_ports import Harness


def main() -> int:
    folder, name = sys.argv[1:]
    harness: Harness | None = next((known for known in get_args(Harness) if known == name), None)
    if harness is None:
        sys.stderr.write(f"There is no harness {name!r}; there are {' and '.join(get_args(Harness))}.\n")
        return 2
    try:
        python = HarnessEnvironments(Path(folder)).make(harness)
    except NotMade as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(python.parent.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
