"""Expected failures that job kinds and the control plane share.

ServiceError                  an expected failure; control's own are in control.errors
├── NotFound                  404
├── Conflict                  409
├── Invalid                   422
├── NoSpace                   507  the disk is full; carries what is missing
├── DatabaseUnavailable       503  locked, full, read-only or away: worth a retry
├── GatewayUnavailable        503  the gateway cannot be reached or has no engine now: worth a retry
└── JobError                  never an HTTP answer: how a running job ends
    ├── JobCancelled
    ├── ModelNotServed              the job's model left the engine: the job waits for it
    ├── WrongWeights                an answer came from another digest than the job's
    ├── JobPaused                   a person has to help (a full disk, say): the job backs off and goes on by itself
    ├── HubUnavailable              the model hub is away, stalls or breaks off: the job backs off and is tried again
    └── BadJob                      not retryable (a broken dataset, say)
"""


class ServiceError(Exception):
    """An expected failure; `status` is its HTTP code, its text is the answer's `detail`."""

    status = 500


class NotFound(ServiceError):
    status = 404


class Conflict(ServiceError):
    status = 409


class Invalid(ServiceError):
    status = 422


class NoSpace(ServiceError):
    status = 507


class DatabaseUnavailable(ServiceError):
    status = 503


class GatewayUnavailable(ServiceError):
    status = 503


class JobError(ServiceError):
    pass


class JobCancelled(JobError):
    pass


class ModelNotServed(JobError):
    pass


class WrongWeights(JobError):
    pass


class JobPaused(JobError):
    pass


class HubUnavailable(JobError):
    pass


class BadJob(JobError):
    pass
