"""Everything control can refuse or fail with.

ControlError
├── NotOffered                400  a choice that there is not; names those there are
├── NotFound                  404
├── Conflict                  409
├── Invalid                   422
│   └── LengthRequired        411  a body of unknown length
├── QueueFull                 429  too many jobs wait already
├── NoSpace                   507  the disk is full; carries what is missing
├── DatabaseUnavailable       503  locked, full, read-only or away: worth a retry
├── CardsUnavailable          503  no GPU can be looked at
├── LogUnreadable             503  a log file is there and cannot be read
├── GatewayUnavailable        503  the gateway cannot be reached or has no engine now: worth a retry
│   └── LoadFailed                  a model that was to be loaded beside the active one does not load
├── ActivationFailed          500  the candidate did not come up; carries what serves instead
│                             422  … because it did not say what its checkpoint must say
├── ReferenceFailed           500  a reference could not be computed or stored
│   └── CheckpointBroken      422  … because the checkpoint lacks weights, or answers what is not finite
├── DatabaseTooNew                 a newer version wrote the database; refused at start
├── DatabaseUnfit                  damaged, another program's, or not to be brought to this schema; refused at start
└── JobError                  never an HTTP answer: how a running job ends
    ├── JobCancelled
    ├── ModelNotServed              the job's model left the engine: the job waits for it
    │   └── NoRoom                    … and cannot be loaded beside the active one now
    ├── WrongWeights                an answer came from another digest than the job's
    ├── JobPaused                   a person has to help (a full disk, say): the job rests and goes on by itself
    ├── HubUnavailable              the model hub is away, stalls or breaks off: the job rests and is tried again
    └── BadJob                      nothing a retry could mend (a broken dataset, say)
"""

from stepserve.contract import ActivateResult


class ControlError(Exception):
    """An expected failure; `status` is its HTTP code, its text is the answer's `detail`."""

    status = 500


class NotOffered(ControlError):
    status = 400


class NotFound(ControlError):
    status = 404


class Conflict(ControlError):
    status = 409


class Invalid(ControlError):
    status = 422


class LengthRequired(Invalid):
    status = 411


class NoSpace(ControlError):
    status = 507


class QueueFull(ControlError):
    status = 429


class DatabaseUnavailable(ControlError):
    status = 503


class CardsUnavailable(ControlError):
    status = 503


class LogUnreadable(ControlError):
    status = 503


class GatewayUnavailable(ControlError):
    status = 503


class LoadFailed(GatewayUnavailable):
    pass


class ActivationFailed(ControlError):
    status = 500

    def __init__(self, result: ActivateResult) -> None:
        super().__init__(result.error or "the candidate did not come up")
        self.result = result
        if result.proof is not None and not result.proof.passed:
            self.status = 422


class ReferenceFailed(ControlError):
    pass


class CheckpointBroken(ReferenceFailed):
    status = 422


class DatabaseTooNew(ControlError):
    pass


class DatabaseUnfit(ControlError):
    pass


class JobError(ControlError):
    pass


class JobCancelled(JobError):
    pass


class ModelNotServed(JobError):
    pass


class NoRoom(ModelNotServed):
    pass


class WrongWeights(JobError):
    pass


class JobPaused(JobError):
    pass


class HubUnavailable(JobError):
    pass


class BadJob(JobError):
    pass
