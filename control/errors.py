"""Everything control can refuse or fail with: what it shares with job kinds (stepserve.jobs.errors), and its own.

ServiceError
├── NotOffered                400  a choice that does not exist; names those that do
├── Forbidden                 403  the key may do this, but not in this way
├── NotFound                  404  shared
├── Conflict                  409  shared
│   └── Superseded                  a switch whose condition is not fulfilled any more
├── Invalid                   422  shared
│   └── LengthRequired        411  a body of unknown length
├── QueueFull                 429  too many jobs wait already
├── NoSpace                   507  shared
├── DatabaseUnavailable       503  shared
├── CardsUnavailable          503  no GPU can be looked at
├── LogUnreadable             503  a log file is there and cannot be read
├── GatewayUnavailable        503  shared
│   └── LoadFailed                  a model that was to be loaded beside the active one does not load
├── ActivationFailed          500  the candidate did not come up; carries what serves instead
│                             422  … because it did not say what its checkpoint must say
├── ReferenceFailed           500  a reference could not be computed or stored
│   └── CheckpointBroken      422  … because the checkpoint lacks weights, or answers what is not finite
├── DatabaseTooNew                 a newer version wrote the database; refused at start
├── DatabaseUnfit                  damaged, another program's, or not to be brought to this schema; refused at start
└── JobError                  shared, with its tree
    ├── RunIsLocked                 another attempt at this job is still alive on this machine
    └── ModelNotServed
        └── NoRoom                    … and cannot be loaded beside the active one now
"""

from stepserve.contract import ActivateResult
from stepserve.jobs.errors import (
    BadJob,
    Conflict,
    DatabaseUnavailable,
    GatewayUnavailable,
    HubUnavailable,
    Invalid,
    JobCancelled,
    JobError,
    JobPaused,
    ModelNotServed,
    NoSpace,
    NotFound,
    ServiceError,
    WrongWeights,
)

__all__ = [
    "ActivationFailed",
    "BadJob",
    "CardsUnavailable",
    "CheckpointBroken",
    "Conflict",
    "DatabaseTooNew",
    "DatabaseUnavailable",
    "DatabaseUnfit",
    "Forbidden",
    "GatewayUnavailable",
    "HubUnavailable",
    "Invalid",
    "JobCancelled",
    "JobError",
    "JobPaused",
    "LengthRequired",
    "LoadFailed",
    "LogUnreadable",
    "ModelNotServed",
    "NoRoom",
    "NoSpace",
    "NotFound",
    "NotOffered",
    "QueueFull",
    "ReferenceFailed",
    "RunIsLocked",
    "ServiceError",
    "Superseded",
    "WrongWeights",
]


class NotOffered(ServiceError):
    status = 400


class Forbidden(ServiceError):
    status = 403


class Superseded(Conflict):
    pass


class LengthRequired(Invalid):
    status = 411


class QueueFull(ServiceError):
    status = 429


class CardsUnavailable(ServiceError):
    status = 503


class LogUnreadable(ServiceError):
    status = 503


class LoadFailed(GatewayUnavailable):
    pass


class ActivationFailed(ServiceError):
    status = 500

    def __init__(self, result: ActivateResult) -> None:
        super().__init__(result.error or "the candidate did not come up")
        self.result = result
        if result.proof is not None and not result.proof.passed:
            self.status = 422


class ReferenceFailed(ServiceError):
    pass


class CheckpointBroken(ReferenceFailed):
    status = 422


class DatabaseTooNew(ServiceError):
    pass


class DatabaseUnfit(ServiceError):
    pass


class NoRoom(ModelNotServed):
    pass


class RunIsLocked(JobError):
    pass
