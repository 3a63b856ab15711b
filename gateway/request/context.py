"""What is known of one request: made once at the edge, filled in on the way in, read by everybody further in."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from gateway.request.body import RequestBody
from gateway.request.estimate import RequestEstimate
from stepserve.route_table import Envelope, Match, match, normalised

_KEY = "stepserve.request"


@dataclass(slots=True)
class RequestContext:
    """`dialect`: in which words the client is answered, also while what it asks is translated for another route.

    `key_class` is the highest scope of its key. `minimal`: an open route is asked by somebody who is told no more than
    whether it is well. `priority` is what vLLM's scheduler gives a job's request; None for interactive ones. `body` and
    `estimate` are None until the body has been read, which happens once. `credential`: the caller's API key, which no
    header has any more; for other gateways of the fleet. `consents`: its key says that its traffic may be kept, or
    there are no keys. `facts`: further attributes of the request's span.
    """

    match: Match
    dialect: Envelope
    request_id: str = ""
    key_class: str = "none"
    minimal: bool = False
    priority: int | None = None
    body: RequestBody | None = None
    estimate: RequestEstimate | None = None
    credential: str | None = field(default=None, repr=False)
    consents: bool = False
    facts: dict[str, str | float | bool] = field(default_factory=dict)

    @classmethod
    def begin(cls, scope: MutableMapping[str, Any]) -> "RequestContext":
        """Puts a new context into the scope, and the path into the form in which the table of routes has it."""
        path: str = scope["path"]
        if (plain := normalised(path)) is not path:
            scope["path"] = plain
            if raw := scope.get("raw_path"):
                scope["raw_path"] = raw[:-1] if raw.endswith(b"/") else raw[:-3]  # %2F
        found = match(scope["method"], plain)
        context: RequestContext = cls(found, found.envelope)
        scope[_KEY] = context
        return context

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> "RequestContext":
        """The request's context; one that came past the edge gets it here."""
        context: RequestContext | None = scope.get(_KEY)
        return cls.begin(scope) if context is None else context

    @property
    def is_translated(self) -> bool:
        """Whether its body was made here, of one in another vocabulary."""
        return self.dialect != self.match.envelope

    def translated(self, path: str, body: bytes) -> tuple[str, "RequestContext"]:
        """What asks `path` on behalf of this request: the key of a scope and what belongs there."""
        found = match("POST", path)
        inner = RequestContext(
            match=found,
            dialect=self.dialect,
            request_id=self.request_id,
            key_class=self.key_class,
            priority=self.priority,
            body=RequestBody(body),
            estimate=self.estimate,
            credential=self.credential,
            consents=self.consents,
        )
        return _KEY, inner
