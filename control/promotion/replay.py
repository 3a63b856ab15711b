"""`python -m control.promotion.replay FOLDER`: the decision worked out again from its files, as JSON with `differs`."""

import json
import sys
from pathlib import Path

from control.promotion.files import BrokenRun, replay

EXIT_BROKEN = 2


def main() -> int:
    """EXIT_BROKEN, and one sentence on stderr, where the folder has no decision or cannot be read."""
    try:
        decided, differs = replay(Path(sys.argv[1]))
    except BrokenRun as error:
        sys.stderr.write(f"{error}.\n")
        return EXIT_BROKEN
    sys.stdout.write(json.dumps({**decided, "differs": differs}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
