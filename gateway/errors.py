"""Everything the gateway can refuse or fail with.

GatewayError
├── BadPath             400  the path climbs, or holds what no path of ours does
├── NotFound            404  no route has that path
├── MethodNotAllowed    405  the path is a route's, and that takes other methods; carries them
├── Unauthorized        401  no key, or one that is not valid; says which
├── PreviousResponseNotFound 400  the response to go on from is not kept, or is another key's
├── ConversationNotFound 404 the conversation is not kept, or is another key's
├── Forbidden           403  the key may not do this, or a page of another site asks
├── TooManyRequests     429  a limit of the key is reached; carries when to try again
├── Overloaded          429  too much waits for the model already; carries when to try again
├── RequestTimeout      408  the client did not send its request in time
├── AnswerTimeout       504  the answer took longer than a request may
├── ModelNotFound       404  no slot answers to that name; carries the names that do
├── InvalidRequest      400  the body cannot be understood, or asks for what there is not (422 on our own routes)
│   └── InvalidField         a field says what it may not; carries its name
├── ContentFiltered     400  a filter lets the request not through
├── AliasNotFound       404  no alias has that name; carries those there are
├── AliasConfigured     409  the alias is the settings', and is changed there
├── AliasTaken          409  a model has the name that an alias was to get
├── NotLoaded           404  the model is registered, not loaded, and requests load nothing here
├── UnsupportedEncoding 415  the body is compressed in a way that is not taken there
├── RequestTooLarge     413  the body is longer than `max_request_bytes`
├── Unserved            503  nothing can answer now; carries when to try again
│   ├── ControlDown          the control process does not answer
│   │   └── ControlElsewhere 421 this gateway is a member of a fleet, whose control plane is another machine's
│   ├── NoRoom               it would have to be loaded, and nothing can leave for it
│   └── LoadFailed           it was to be loaded for a request and does not load
├── StageFailed         502  a member of a fleet could not get a model's files
│   └── StageNoSpace     507  … since the disk is full
├── JoinRefused         403  control does not take this gateway as a member of its fleet; ends the start
├── SwitchInProgress    409  another switch runs; carries its target
├── CanaryRunning       409  another canary runs; carries its candidate
├── DrainFailed         409  requests were still inside a slot at the end of the time; nothing was changed
├── PushInProgress      409  weights are being pushed; carries whose
├── ModelPaused         409  a trainer has paused the active model; carries for how long at most
├── UpdateRefused       409  a phase of an update that is not its turn, or of none that is under way
├── FleetPushFailed     500  a member of the fleet did not take the weights, and all are back; or 422, by a proof
├── PushRefused         409  the model is not one, or not any more, whose weights can be pushed now
├── DeltaBaseGone       409  a delta of weights is for others than those that serve; carries which may be its base
├── PushBroken          400  the body ended before the weights were complete
├── BadWeights          422  tensors that were pushed are not the model's, or hold numbers that are not finite
├── VersionUnavailable  409  the weights' version that a request demands does not serve
├── DigestMismatch      409  the model is there with other weights than the caller meant
├── MethodImpossible    422  that way of switching cannot be done here
├── EngineStartFailed   500  an engine did not come up; carries the root cause as far as it is known
├── EngineArgumentRefused 422 vLLM has no such engine argument, or does not take its value
├── BadReference        422  the reference does not fit the model's tokenizer or context
├── ProofFailed         422  the model answers otherwise than its reference says; carries the proof
└── EngineReloadFailed  500  a checkpoint could not be loaded in place; the weights are a mixture
"""

from collections.abc import Iterable, Sequence

from stepserve.contract import Proof

_MOST_NAMES = 50
_MOST_FAULTS = 20


class GatewayError(Exception):
    """An expected failure. `status` is its HTTP code, `code` the machine-readable name in every envelope, `param` the
    field that it is about.
    """

    status = 500
    code = "internal_error"
    retry_after_s: float | None = None
    param: str | None = None


class BadPath(GatewayError):
    status = 400
    code = "bad_path"


class NotFound(GatewayError):
    status = 404
    code = "not_found"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"{method} {path}: Not Found")


class MethodNotAllowed(GatewayError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allow: Iterable[str]) -> None:
        self.allow = tuple(allow)
        super().__init__(f"{method} {path}: Method Not Allowed")


class Unauthorized(GatewayError):
    status = 401
    code = "invalid_api_key"


class Forbidden(GatewayError):
    status = 403
    code = "forbidden"


class PreviousResponseNotFound(GatewayError):
    status = 400
    code = "previous_response_not_found"
    param = "previous_response_id"


class ConversationNotFound(GatewayError):
    status = 404
    code = "conversation_not_found"
    param = "conversation"


class TooManyRequests(GatewayError):
    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Overloaded(TooManyRequests):
    code = "overloaded"


class RequestTimeout(GatewayError):
    status = 408
    code = "request_timeout"


class AnswerTimeout(GatewayError):
    status = 504
    code = "timeout"


class ModelNotFound(GatewayError):
    status = 404
    code = "model_not_found"
    param = "model"

    def __init__(self, name: str, served: Iterable[str]) -> None:
        """`served`: every name that could have been asked for; the message has the first of them."""
        self.name = name
        self.served = list(dict.fromkeys(served))
        shown = ", ".join(f"`{known}`" for known in self.served[:_MOST_NAMES]) or "none"
        more = len(self.served) - _MOST_NAMES
        rest = f" and {more} more (GET /v1/models)" if more > 0 else ""
        super().__init__(f"The model `{name}` is not served here. Served now: {shown}{rest}.")


class InvalidRequest(GatewayError):
    status = 400
    code = "invalid_request"


class InvalidField(InvalidRequest):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.param = field


class ContentFiltered(GatewayError):
    status = 400
    code = "content_filter"


class AliasNotFound(GatewayError):
    status = 404
    code = "alias_not_found"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        there = ", ".join(f"`{each}`" for each in [*known][:_MOST_NAMES]) or "none"
        super().__init__(f"There is no alias `{name}`. Aliases: {there}.")


class AliasConfigured(GatewayError):
    status = 409
    code = "alias_configured"


class AliasTaken(GatewayError):
    status = 409
    code = "alias_taken"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"name: `{name}` is the id of a model, which could not be asked for any more: choose another name."
        )


class NotLoaded(GatewayError):
    status = 404
    code = "model_not_loaded"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model `{name}` is registered and not loaded: POST /models/set_active, or set load_on_request."
        )


class UnsupportedEncoding(GatewayError):
    status = 415
    code = "unsupported_encoding"

    def __init__(self, encoding: str, taken: Iterable[str]) -> None:
        """`taken`: those that the route takes."""
        rest = f"{' and '.join(taken)} are taken here" if taken else "this route takes bodies as they are"
        super().__init__(f"content-encoding {encoding}: {rest}.")


class RequestTooLarge(GatewayError):
    status = 413
    code = "request_too_large"

    def __init__(self, limit_bytes: int, setting: str = "max_request_bytes") -> None:
        super().__init__(f"The request body is longer than {limit_bytes} bytes (setting {setting}).")


class Unserved(GatewayError):
    status = 503
    code = "service_unavailable"

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ControlDown(Unserved):
    code = "control_down"

    def __init__(self, rest: str = "Inference on /v1 goes on.") -> None:
        super().__init__(f"The control process does not answer; it is being restarted. {rest}", 2.0)


class ControlElsewhere(ControlDown):
    status = 421
    code = "control_elsewhere"

    def __init__(self, url: str) -> None:
        super().__init__()
        self.args = (f"This gateway is a member of the fleet of {url}: ask there.",)
        self.retry_after_s = None


class StageFailed(GatewayError):
    status = 502
    code = "stage_failed"


class StageNoSpace(StageFailed):
    status = 507
    code = "no_space"


class JoinRefused(GatewayError):
    status = 403
    code = "join_refused"


class NoRoom(Unserved):
    code = "no_room"


class LoadFailed(Unserved):
    code = "load_failed"

    def __init__(self, name: str, reason: str, retry_after_s: float | None) -> None:
        super().__init__(f"`{name}` could not be loaded: {reason}", retry_after_s)


class SwitchInProgress(GatewayError):
    status = 409
    code = "switch_in_progress"

    def __init__(self, target: str) -> None:
        super().__init__(f"A switch to `{target}` is running; ask again when it has ended.")


class CanaryRunning(GatewayError):
    status = 409
    code = "canary_running"

    def __init__(self, candidate: str) -> None:
        super().__init__(f"A canary of `{candidate}` is running; ask again when it has ended.")


class PushInProgress(GatewayError):
    status = 409
    code = "push_in_progress"

    def __init__(self, name: str) -> None:
        super().__init__(f"Weights are being pushed to `{name}`; ask again when that has ended.")


class ModelPaused(GatewayError):
    status = 409
    code = "model_paused"

    def __init__(self, name: str, left_s: float) -> None:
        self.retry_after_s = max(1.0, left_s)
        super().__init__(
            f"`{name}` is paused for an update of its weights. POST /resume ends that; by itself it ends in"
            f" {left_s:.0f} s."
        )


class UpdateRefused(GatewayError):
    status = 409
    code = "update_refused"


class PushRefused(GatewayError):
    status = 409
    code = "push_refused"


class FleetPushFailed(GatewayError):
    code = "fleet_push_failed"

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class DeltaBaseGone(GatewayError):
    status = 409
    code = "delta_base_unavailable"

    def __init__(self, name: str, served: str | None) -> None:
        there = f"a delta can be for {served} now" if served is not None else "its files serve, which take no delta"
        super().__init__(f"The delta is for weights that `{name}` does not have in memory: {there}. Push all tensors.")
        self.served = served


class PushBroken(GatewayError):
    status = 400
    code = "push_broken"


class BadWeights(GatewayError):
    status = 422
    code = "bad_weights"

    def __init__(self, faults: Sequence[str]) -> None:
        """`faults`: one sentence's part each, that names its tensor; the message has the first of them."""
        self.faults = list(faults)
        more = len(self.faults) - _MOST_FAULTS
        rest = f"; and {more} more" if more > 0 else ""
        super().__init__(f"weights: {'; '.join(self.faults[:_MOST_FAULTS])}{rest}. Nothing was changed.")


class VersionUnavailable(GatewayError):
    status = 409
    code = "model_version_unavailable"
    retry_after_s = 1.0

    def __init__(self, name: str, demanded: str, served: int) -> None:
        super().__init__(f"`{name}` serves version {served} of its weights, and the request demands {demanded}.")


class DrainFailed(GatewayError):
    status = 409
    code = "drain_failed"

    def __init__(self, in_flight: int, timeout_s: float) -> None:
        left = f"{in_flight} requests still run after {timeout_s:g} s"
        super().__init__(f"{left}; nothing was changed. Try a longer timeout_s, or in_flight=abort.")


class DigestMismatch(GatewayError):
    status = 409
    code = "digest_mismatch"

    def __init__(self, name: str, wanted: str, served: str, version: int = 0) -> None:
        """`version`: of weights that were pushed."""
        pushed = f" (version {version}, which was pushed: set_active loads its files again)" if version else ""
        super().__init__(f"`{name}` is served with digest {served}{pushed}, not {wanted}.")


class MethodImpossible(GatewayError):
    status = 422
    code = "method_impossible"


class EngineStartFailed(GatewayError):
    code = "engine_start_failed"


class EngineArgumentRefused(GatewayError):
    status = 422
    code = "engine_argument_refused"


class BadReference(GatewayError):
    status = 422
    code = "bad_reference"


class ProofFailed(GatewayError):
    status = 422
    code = "proof_failed"

    def __init__(self, name: str, proof: Proof) -> None:
        super().__init__(f"`{name}` failed its proof ({proof.kind}, {proof.prompts} prompts): {proof.reason}.")
        self.proof = proof


class EngineReloadFailed(GatewayError):
    code = "engine_reload_failed"


LOAD_FAILURES = (EngineStartFailed, BadReference, ProofFailed)  # how a candidate that is being loaded can fail
