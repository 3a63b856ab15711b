"""What the benchmark of detection has found so far: kept in a file, so that it may run in pieces."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.detection_table import Found
from stepserve.contract import Proof

Loads = tuple[Proof, Proof]  # of one right load: by the trainer's reference, and by the computed one

_FOUND, _LOADS = TypeAdapter(Found), TypeAdapter(Loads)


class Record:
    """`path`: a file of JSON lines that is read first and appended to; None: nothing is kept."""

    def __init__(self, path: Path | None, most_s: float) -> None:
        self.found: list[Found] = []
        self.loads: list[Loads] = []
        self.costs: str | None = None
        self._path = path
        self._over_at_s = time.monotonic() + most_s
        for line in path.read_text().splitlines() if path is not None and path.exists() else []:
            entry = json.loads(line)
            if "found" in entry:
                self.found.append(_FOUND.validate_python(entry["found"]))
            elif "load" in entry:
                self.loads.append(_LOADS.validate_python(entry["load"]))
            else:
                self.costs = entry["costs"]

    @property
    def is_over(self) -> bool:
        """Whether this call has had its time; what is left is for the next one."""
        return time.monotonic() >= self._over_at_s

    def has(self, kind: str, where: str) -> bool:
        return any((each.kind, each.where) == (kind, where) for each in self.found)

    def has_all(self, faults: Sequence[tuple[str, str]]) -> bool:
        return all(self.has(kind, where) for kind, where in faults)

    def add(self, found: Found) -> None:
        self.found.append(found)
        print(found.line(), flush=True)
        self._append({"found": _FOUND.dump_python(found, mode="json")})

    def add_load(self, proofs: Loads) -> None:
        self.loads.append(proofs)
        self._append({"load": _LOADS.dump_python(proofs, mode="json")})

    def add_costs(self, costs: str) -> None:
        self.costs = costs
        self._append({"costs": costs})

    def _append(self, entry: dict[str, object]) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
