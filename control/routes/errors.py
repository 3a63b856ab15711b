"""The one renderer of control's errors: `{"detail": "…"}`, always a string."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from control.errors import ActivationFailed, ControlError

_RETRY_AFTER_S = {429: "10", 503: "1"}
_PLACES = {"body", "query", "path", "header"}


def install(app: FastAPI) -> None:
    app.add_exception_handler(ControlError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _crashed)


def readable(errors: Sequence[Any]) -> str:
    """pydantic's errors as one line: `tags.0: input should be a valid string; sorce: unknown field`."""
    return "; ".join(_one(error) for error in errors)


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
            return f"the body is no valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
    field = ".".join(str(part) for part in place)
    return f"{field or 'body'}: {text}"


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ControlError)
    body: dict[str, Any] = {"detail": str(error)}
    if isinstance(error, ActivationFailed):
        body |= error.result.model_dump(include={"id", "method", "proof", "rolled_back_to"})
    headers = {"Retry-After": _RETRY_AFTER_S[error.status]} if error.status in _RETRY_AFTER_S else None
    return JSONResponse(body, error.status, headers)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": readable(error.errors())}, 422)


async def _crashed(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette logs the traceback after this answer."""
    return JSONResponse({"detail": "internal error: the log has the traceback"}, 500)
