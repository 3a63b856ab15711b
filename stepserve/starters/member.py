"""`python -m stepserve.starters.member`: `stepserve join` by variables alone, as long as its parent lives."""

import signal
import sys

from stepserve import supervisor
from stepserve.process import follow_parent
from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused


def main() -> int:
    follow_parent(signal.SIGTERM)
    try:
        return supervisor.run(load(), joins=True)
    except (SettingsRefused, supervisor.StartRefused) as error:
        print(error, file=sys.stderr)
        return supervisor.EXIT_START_REFUSED


if __name__ == "__main__":
    sys.exit(main())
