"""What a harness was answered, kept so that a second attempt need not ask it again."""

import hashlib
import json
from collections import defaultdict, deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stepserve.jobs.jsonl_log import JsonlLog

_MOST_BYTES = 4 * 1024**3


def key_of(path: str, body: dict[str, Any]) -> str:
    """Equal for requests that ask the same."""
    said = json.dumps([path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()


class KeptAnswers:
    """A file of answers that came with 200, in the order in which they came. Every method blocks for a file operation.

    A request that is asked n times (samples at a temperature) has n answers, and each is given once in an attempt, so a
    second attempt sees the same ones and asks for as many as are missing.
    """

    def __init__(self, path: Path, most_bytes: int = _MOST_BYTES) -> None:
        """`most_bytes`: beyond that nothing more is kept."""
        self._most_bytes = most_bytes
        self._size_bytes = 0
        self._places: defaultdict[str, deque[tuple[int, int]]] = defaultdict(deque)
        self._log: JsonlLog[tuple[str, bytes]] = JsonlLog(path, _encode, _decode)
        for key, line in self._log.recover():
            self._places[key].append((self._size_bytes, len(line)))
            self._size_bytes += len(line)
        self._reader = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()
        self._reader.close()

    def take(self, key: str) -> Any:
        """The next answer of an earlier attempt that was not given yet; None where there is none."""
        places = self._places.get(key)
        if not places:
            return None
        offset, length = places.popleft()
        self._reader.seek(offset)
        return json.loads(self._reader.read(length))["answer"]

    def add(self, key: str, answer: Any) -> None:
        line = json.dumps({"key": key, "answer": answer}, separators=(",", ":")).encode()
        if self._size_bytes + len(line) < self._most_bytes:
            self._log.append([(key, line)])
            self._size_bytes += len(line) + 1


def _encode(record: tuple[str, bytes]) -> bytes:
    return record[1]


def _decode(line: bytes) -> tuple[str, bytes]:
    found = json.loads(line)
    if not isinstance(found, dict) or not isinstance(found.get("key"), str) or "answer" not in found:
        raise ValueError("it is not a kept answer")
    return found["key"], line
