"""pydantic's errors as one line that names each field, for every answer that refuses a request."""

from collections.abc import Sequence
from typing import Any

_MOST = 20
_PLACES = {"body", "query", "path", "header"}


def readable(errors: Sequence[Any]) -> str:
    """`tags.0: input should be a valid string; sorce: unknown field`; takes what `ValidationError.errors()` gives."""
    told = [_one(error) for error in errors[:_MOST]]
    if len(errors) > _MOST:
        told.append(f"and {len(errors) - _MOST} more")
    return "; ".join(told)


def _one(error: dict[str, Any]) -> str:
    place = list(error["loc"])
    if place and place[0] in _PLACES:
        place = place[1:]
    match error["type"]:
        case "extra_forbidden":
            text = "unknown field"
        case "missing":
            text = "is missing"
        case "json_invalid":
            return f"the body is not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
    field = ".".join(str(part) for part in place)
    return f"{field or 'body'}: {text}"
