"""Everything that can go wrong between a client and its server. The text of each is one sentence for a person.

StepserveError
├── Unreachable          nobody answers there, or not in time; `sent`: a request may have arrived
├── Unavailable          502, 503, 504: the server, or a proxy before it, cannot answer now; `retry_after_s`
├── NotStepserve        whoever answers there is no Stepserve server: a page of a proxy, another program
├── OtherVersion         the server's answer lacks what this client needs of it
├── Refused              the server says no: `status`, `detail`, `code`
│   ├── Unauthorized     401  no key, or a bad one
│   ├── Forbidden        403  the key may not do this
│   ├── NotFound         404
│   ├── Conflict         409
│   ├── Invalid          422, 400, 413
│   ├── TooMany          429  `retry_after_s`
│   └── Failed           500: it was tried and did not work
├── JobFailed            a job that was waited for ended failed or cancelled; carries it
├── WaitedTooLong        a job is not over within the time given; carries it
├── BadCheckpoint        the folder to push is no whole checkpoint
├── CheckpointChanged    a file changed while it was pushed
└── BadShard             a shard arrived otherwise than its checksum says
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepserve.client.results import Job


class StepserveError(Exception):
    pass


class Unreachable(StepserveError):
    def __init__(self, url: str, reason: str, *, sent: bool) -> None:
        super().__init__(f"No server can be reached at {url} ({reason}).")
        self.url = url
        self.sent = sent


class Unavailable(StepserveError):
    def __init__(self, status: int, detail: str, retry_after_s: float | None) -> None:
        super().__init__(f"The server cannot answer now: {_sentence(detail)}")
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


class NotStepserve(StepserveError):
    def __init__(self, url: str, status: int, media_type: str) -> None:
        super().__init__(
            f"{url} answers, but is not a Stepserve server: {status} with {media_type or 'no type'} instead of JSON."
            " A proxy may stand between."
        )
        self.status = status


class OtherVersion(StepserveError):
    def __init__(self, what: str, problem: str) -> None:
        super().__init__(
            f"The answer to {what} is not what this client knows ({problem}): is the server older or newer?"
        )


class Refused(StepserveError):
    def __init__(self, status: int, detail: str, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(f"Refused: {_sentence(detail)}")
        self.status = status
        self.detail = detail
        self.code = code
        self.retry_after_s = retry_after_s


class Unauthorized(Refused):
    pass


class Forbidden(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class Invalid(Refused):
    pass


class TooMany(Refused):
    pass


class Failed(Refused):
    pass


class JobFailed(StepserveError):
    def __init__(self, job: "Job") -> None:
        super().__init__(f"{job.id} {job.status}{': ' + job.error if job.error else ''}")
        self.job = job


class WaitedTooLong(StepserveError):
    def __init__(self, job: "Job", timeout_s: float) -> None:
        super().__init__(f"{job.id} is still {job.status} after {timeout_s:g} s.")
        self.job = job


class BadCheckpoint(StepserveError):
    pass


class CheckpointChanged(StepserveError):
    pass


class BadShard(StepserveError):
    pass


BY_STATUS: dict[int, type[Refused]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    422: Invalid,
    429: TooMany,
    500: Failed,
}


def _sentence(detail: str) -> str:
    return f"{detail.rstrip('.')}."
