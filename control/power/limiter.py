"""Sets a card's power limit: by NVML, or by nvidia-smi where sudo lets this user run it without a password.

Another way can be installed, for a machine whose power something else manages: an entry point in the group
`stepserve.power_limiters` whose object is a `Way`. Installed ones are tried first.
"""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points

from control.telemetry.cards import CardReader, PowerRefused

GROUP = "stepserve.power_limiters"
_TIMEOUT_S = 10.0

Way = Callable[[int, float], None]
"""Called with a card's index and watts, in a thread; blocks until the limit holds. Raises PowerRefused with why not."""


class Limiter:
    """Blocks; call it in a thread."""

    def __init__(self, reader: CardReader, command: tuple[str, ...] = ("sudo", "-n", "nvidia-smi")) -> None:
        self._reader = reader
        self._command = command

    def set(self, index: int, watts: float) -> None:
        """Raises PowerRefused with what each way said."""
        refusals: list[PowerRefused] = []
        for way in self._ways():
            try:
                way(index, watts)
            except PowerRefused as error:
                refusals.append(error)
            else:
                return
        raise PowerRefused("; ".join(map(str, refusals))) from refusals[-1]

    def _ways(self) -> list[Way]:
        installed = [partial(_by_installed, point) for point in entry_points(group=GROUP)]
        return [*installed, self._reader.set_power_limit, self._by_command]

    def _by_command(self, index: int, watts: float) -> None:
        name = " ".join(self._command)
        for program in {self._command[0], self._command[-1]}:
            if shutil.which(program) is None:
                raise PowerRefused(f"{name}: there is no {program}")
        try:
            ended = subprocess.run(
                [*self._command, "-i", str(index), "-pl", f"{watts:.0f}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PowerRefused(f"{name}: {error}") from error
        if ended.returncode != 0:
            said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
            raise PowerRefused(f"{name}: {said[-1] if said else f'exit code {ended.returncode}'}")


def _by_installed(point: EntryPoint, index: int, watts: float) -> None:
    try:
        way: Way = point.load()
    except (ImportError, AttributeError) as error:
        raise PowerRefused(f"{point.name}: {point.value} cannot be imported: {error}") from error
    way(index, watts)
