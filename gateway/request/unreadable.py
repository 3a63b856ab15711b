"""The refusal of a body that cannot be read as a JSON object."""

from gateway.errors import InvalidField, InvalidRequest
from stepserve.unreadable_json import why_unreadable


def unreadable(raw: bytes) -> InvalidRequest:
    """As why_unreadable."""
    found = why_unreadable(raw)
    return InvalidRequest(found.reason) if found.field is None else InvalidField(found.field, found.reason)
