"""Sets a card's power limit: by NVML, or by nvidia-smi where sudo lets this user run it without a password."""

import shutil
import subprocess

from control.telemetry.cards import CardReader, PowerRefused

_TIMEOUT_S = 10.0


class Limiter:
    """Blocks; call it in a thread."""

    def __init__(self, reader: CardReader, command: tuple[str, ...] = ("sudo", "-n", "nvidia-smi")) -> None:
        self._reader = reader
        self._command = command

    def set(self, index: int, watts: float) -> None:
        """Raises PowerRefused with what each way said."""
        try:
            self._reader.set_power_limit(index, watts)
        except PowerRefused as first:
            try:
                self._by_command(index, watts)
            except PowerRefused as second:
                raise PowerRefused(f"{first}; {second}") from second

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
