"""A control process to be killed: `python -m tests.integration.killed_fleet BASE PORT` serves control over TCP."""

import sys
from pathlib import Path

import uvicorn

from control.app import create_app
from stepserve.fleet_settings import FleetSettings
from tests.integration.control_plane import PACE, settings_of


def main(base: Path, port: int) -> None:
    app = create_app(settings_of(base, fleet=FleetSettings(lease_s=1.0)), [], pace=PACE)
    uvicorn.run(app, port=port, log_config=None, access_log=False, ws="none")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
