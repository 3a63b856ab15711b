"""What data generation can object to. `datagen.kind` turns these into control's errors: at the door and in a run.

DataGenError
├── Refused          a field of the config cannot be used; names it
├── SourceMissing    a file or an eval run that is not there
├── SourceBroken     it is there and cannot be used
├── NothingPassed    a whole run without one example; carries why
└── LimitMissed      a limit of config.quality; nothing was published
"""

from collections.abc import Sequence


class DataGenError(Exception):
    """Its text is for the person who asked for the examples."""


class Refused(DataGenError):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"config.{field}: {reason}")
        self.field = field


class SourceMissing(DataGenError):
    pass


class SourceBroken(DataGenError):
    pass


class NothingPassed(DataGenError):
    pass


class LimitMissed(DataGenError):
    def __init__(self, missed: Sequence[object], report: str) -> None:
        super().__init__(f"{'; '.join(map(str, missed))}; nothing was published (see {report} of the run)")
