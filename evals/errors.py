"""What evals can object to. `evals.kind` turns these into control's errors: at the door and in a running job.

EvalError
├── DatasetOutside   the reference leads out of the datasets folder
├── DatasetMissing   no such file; carries what there is
├── DatasetBroken    the file, or one line of it, cannot be used
├── UnknownMetric    no metric has that name
├── MetricBroken     it is installed, and cannot be used
└── ScoringBroken    a metric cannot be worked out on this machine
"""

from collections.abc import Sequence


class EvalError(Exception):
    """Its text is for the person who asked for the evaluation."""


class DatasetOutside(EvalError):
    def __init__(self, ref: str) -> None:
        super().__init__(f"{ref!r} is not inside the datasets folder")
        self.ref = ref


class DatasetMissing(EvalError):
    def __init__(self, ref: str, available: Sequence[str]) -> None:
        listing = f"there are: {', '.join(available)}" if available else "the folder has no .jsonl file"
        super().__init__(f"there is no file {ref!r} in the datasets folder ({listing})")
        self.ref = ref
        self.available = tuple(available)


class DatasetBroken(EvalError):
    """`line` counts from 1; None when the whole file is meant."""

    def __init__(self, file: str, line: int | None, reason: str) -> None:
        super().__init__(f"{file}: {reason}" if line is None else f"{file}, line {line}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class UnknownMetric(EvalError):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown metric {name!r}; known are {', '.join(known)}")


class MetricBroken(EvalError):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the metric {name!r} is installed and cannot be used: {reason}")


class ScoringBroken(EvalError):
    pass
