"""Fields of vLLM's requests by which one client could harm another, and what it may say in them.

docs/decisions/0022-a-client-may-step-back.md says why.
"""

from gateway.errors import InvalidField
from gateway.request.estimate import NOTHING, RequestEstimate
from gateway.request.unreadable import unreadable
from stepserve.contract import BATCH_PRIORITY

_RESPONSES_PATH = "/v1/responses"
_RESPONSE_ID_PREFIX = "resp_"  # of the ids that vLLM makes itself; its other routes prefix whatever they are given


def check(estimate: RequestEstimate, path: str) -> None:
    """Raises InvalidField; InvalidRequest for a body that cannot be looked into, but which vLLM might understand."""
    if estimate is NOTHING:
        raise unreadable(b"")  # any other was refused before
    priority, request_id = estimate.priority, estimate.request_id
    if priority is not None and not (type(priority) is int and 0 <= priority < BATCH_PRIORITY):
        raise InvalidField(
            "priority",
            f"must be a whole number from 0, as without it, to {BATCH_PRIORITY - 1}, behind all others but jobs",
        )
    if path != _RESPONSES_PATH or request_id is None:
        return
    if not (isinstance(request_id, str) and request_id.startswith(_RESPONSE_ID_PREFIX)):
        raise InvalidField("request_id", f"must begin with {_RESPONSE_ID_PREFIX}")
    if not request_id.isprintable():  # it is a key of what is kept
        raise InvalidField("request_id", "must be printable")
