"""Our programs as a person starts them: in a folder, with the settings that are given and none of this machine's."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stepserve.client.cli import main
from tests.integration import forked
from tests.integration.forked import Ended

REPOSITORY = Path(__file__).resolve().parents[2]
STEPSERVE = ("-c", "from stepserve.client.cli import main; main()")


def environment_of(base: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """`settings` by their names; a variable's own name, in capitals, is taken as it is."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    given = {
        name if name.isupper() else f"INFERENCE_{name.upper()}": str(value)
        for name, value in ({"base_dir": base} | dict(settings)).items()
    }
    return bare | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"} | given


def python(folder: Path, *arguments: object, **settings: object) -> Ended:
    """Python in `folder`, which is the base directory too unless the settings say another."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment_of(folder, settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def stepserve(folder: Path, *arguments: object, **settings: object) -> Ended:
    """A command that starts no server, as one of its users would type it."""
    return forked.run(main, "stepserve", tuple(map(str, arguments)), folder, environment_of(folder, settings))


def server(folder: Path, *arguments: object, **settings: object) -> Ended:
    """`stepserve up` or `join`, which is expected to be refused, in an interpreter that has imported nothing."""
    return python(folder, *STEPSERVE, *arguments, **settings)
