"""What data generation can object to. `datagen.kind` turns these into control's errors: at the door and in a run.

DataGenError
├── Refused          a field of the config cannot be used; names it
├── ConfigRefused    the same of fields that a config model refuses
├── SourceMissing    a file or an eval run that is not there
├── SourceBroken     it is there and cannot be used
├── NothingPassed    a whole run without one example; carries why
├── LowAgreement     the judge does not agree with its calibration set
└── LimitMissed      a limit of config.quality; nothing was published
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError


class DataGenError(Exception):
    """Its text is for the person who asked for the examples."""


class Refused(DataGenError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"config.{field}: {reason}")
        self.field = field
        self.reason = reason


class ConfigRefused(DataGenError):
    """What a config model objects to, with the fields as a client wrote them; `place` is where in the config it is."""

    def __init__(self, error: ValidationError, *place: str) -> None:
        super().__init__("; ".join(_readable(one, place) for one in error.errors()))


class SourceMissing(DataGenError):
    pass


class SourceBroken(DataGenError):
    pass


class NothingPassed(DataGenError):
    pass


class LimitMissed(DataGenError):
    def __init__(self, missed: Sequence[object], report: str) -> None:
        super().__init__(f"{'; '.join(map(str, missed))}; nothing was published (see {report} of the run)")


class LowAgreement(DataGenError):
    def __init__(self, wanted: float, found: Mapping[str, Any]) -> None:
        numbers = ", ".join(f"{name} {value}" for name, value in found.items())
        super().__init__(f"config.judge.min_agreement: at least {wanted:g} was asked for; the judge has {numbers}")


def _readable(error: Any, place: Sequence[str]) -> str:
    where = ".".join(str(part) for part in ("config", *place, *error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown field"
    if error["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')}"
