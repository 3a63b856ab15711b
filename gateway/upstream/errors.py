"""How another host fails. Each is worth another replica as long as the client has seen nothing of an answer.

UpstreamError (GatewayError)
├── UpstreamFailed        502  it cannot be reached, breaks off, or answers what makes no sense
├── UpstreamTimeout       504  it does not answer in time
├── UpstreamBusy          429  it says that it is busy; carries when to try again
├── UpstreamMoved         503  a member of the fleet does not serve what control says it does
├── UpstreamKeyUnknown    503  a member of the fleet does not take the client's key
└── UpstreamUnavailable   503  none of them may be asked now; carries when to try again
"""

from gateway.errors import GatewayError


class UpstreamError(GatewayError):
    status = 502
    code = "upstream_error"


class UpstreamFailed(UpstreamError):
    pass


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamBusy(UpstreamError):
    status = 429
    code = "upstream_busy"

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class UpstreamMoved(UpstreamError):
    status = 503
    code = "upstream_moved"
    retry_after_s = 1.0


class UpstreamKeyUnknown(UpstreamError):
    status = 503
    code = "upstream_key_unknown"
    retry_after_s = 1.0


class UpstreamUnavailable(UpstreamError):
    status = 503
    code = "upstream_unavailable"

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
