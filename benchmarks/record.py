"""What a benchmark measured, as a file that `python -m benchmarks.compare` reads: a number a round and metric.

    {"commit": "58ddc4f", "made": "2026-12-01T06:30:00Z", "python": "3.11.7", "vllm": "0.32.0+cpu", "cpus": 2,
     "turns": null, "metrics": [{"name": "chat/64 requests/s of vllm serve", "better": "higher", "rounds": [1.06, …]}]}

`turns`: the name of the run where another file's rounds were measured in turn with these, round by round.
"""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from benchmarks.commits import working_tree
from stepserve.installed_vllm import installed_vllm

Better = Literal["higher", "lower"]


class Metric(BaseModel):
    """`rounds`: [n_rounds], each larger than 0, in the unit that `name` says."""

    name: str
    better: Better
    rounds: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]


class Record(BaseModel):
    commit: str
    made: str
    python: str
    vllm: str
    cpus: int
    turns: str | None = None
    metrics: list[Metric]

    @classmethod
    def of(cls, metrics: list[Metric], commit: str | None = None, turns: str | None = None) -> Self:
        """Of measurements on this machine; `commit` None: that of the working tree."""
        return cls(
            commit=commit or working_tree(),
            made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            python=platform.python_version(),
            vllm=installed_vllm() or "none",
            cpus=len(os.sched_getaffinity(0)),
            turns=turns,
            metrics=metrics,
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ValueError with a sentence that names the file."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ValueError(f"{path} is not a record of a benchmark: {place}: {first['msg']}") from error

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n")

    def metric(self, name: str) -> Metric | None:
        return next((each for each in self.metrics if each.name == name), None)


def add_to(path: Path | None, metrics: list[Metric]) -> None:
    """Into the file, beside what other benchmarks of the same commit have put there; `path` None: nowhere."""
    if path is None:
        return
    made = Record.of(metrics)
    if path.exists():
        former = Record.read(path)
        if former.commit == made.commit:
            names = {each.name for each in metrics}
            made.metrics = [each for each in former.metrics if each.name not in names] + metrics
    made.write(path)
