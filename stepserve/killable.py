"""A process for work that must not stop its asker: a JSON line in, a JSON line out, killed when it takes too long."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Self

_LONGEST_LINE_BYTES = 64 * 1024**2


class KillableProcess:
    """Answers in the order of the questions. Whoever starts it ends it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, program: Sequence[str]) -> Self:
        """Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                *program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_LINE_BYTES,
            )
        )

    def send(self, lines: bytes) -> None:
        """Never waits: what the process has not read yet is kept here."""
        assert self._process.stdin is not None
        self._process.stdin.write(lines)

    async def answer(self, limit_s: float) -> dict[str, Any]:
        """The next one. Raises TimeoutError after `limit_s`, EOFError or ConnectionError when the process has died."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                line = await self._process.stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError("it ended without an answer")
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise EOFError("its answer is too long, or none") from error
        return answer

    async def ask(self, question: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Raises as `answer` does."""
        self.send(line_of(question))
        return await self.answer(limit_s)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def line_of(question: dict[str, Any]) -> bytes:
    return json.dumps(question).encode() + b"\n"
