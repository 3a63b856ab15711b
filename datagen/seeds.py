"""Seed tasks: the shipped ones (datagen/seed_tasks.jsonl, written for this project), or a user's own file."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from datagen.errors import Refused

SHIPPED = "seed_tasks.jsonl"
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class SeedTask:
    """`input` may be empty; `classification`: the output is one of few labels."""

    id: str
    domain: str
    instruction: str
    input: str
    output: str
    classification: bool


@dataclass(frozen=True, slots=True)
class SeedTasks:
    """At least one of them."""

    tasks: tuple[SeedTask, ...]
    digest: str

    def of_domain(self, domain: str) -> tuple[SeedTask, ...]:
        """Those of the domain; all of them when it has none."""
        wanted = domain.strip().casefold()
        return tuple(task for task in self.tasks if task.domain.casefold() == wanted) or self.tasks

    @property
    def domains(self) -> list[str]:
        return sorted({task.domain for task in self.tasks})


def shipped_seeds() -> SeedTasks:
    return _read(files("datagen").joinpath(SHIPPED).read_bytes(), SHIPPED)


def seeds_of_file(path: Path) -> SeedTasks:
    """JSON objects, one a line: `instruction`, `output`, and as wished `input`, `domain`, `id`, `is_classification`.

    Blocks; raises Refused naming the line.
    """
    try:
        return _read(path.read_bytes(), path.name)
    except OSError as error:
        raise Refused("seed_file", f"{path.name} cannot be read: {error.strerror}") from error


def _read(content: bytes, name: str) -> SeedTasks:
    tasks = []
    for line, raw in enumerate(content.splitlines(), start=1):
        if raw.strip():
            tasks.append(_task(raw, line, f"{name}, line {line}"))
    if not tasks:
        raise Refused("seed_file", f"{name} has no tasks")
    if len(tasks) > _MOST:
        raise Refused("seed_file", f"{name} has more than {_MOST} tasks")
    return SeedTasks(tuple(tasks), hashlib.sha256(content).hexdigest())


def _task(raw: bytes, line: int, place: str) -> SeedTask:
    try:
        fields: Any = json.loads(raw)
    except ValueError as error:
        raise Refused("seed_file", f"{place}: no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refused("seed_file", f"{place}: not a JSON object")
    for key in ("instruction", "output"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise Refused("seed_file", f"{place}: {key!r} is missing or no text")
    return SeedTask(
        id=str(fields.get("id", line)),
        domain=str(fields.get("domain", "")),
        instruction=fields["instruction"].strip(),
        input=str(fields.get("input") or "").strip(),
        output=fields["output"].strip(),
        classification=bool(fields.get("is_classification", False)),
    )
