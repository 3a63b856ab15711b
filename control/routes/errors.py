"""The one renderer of control's errors: `{"detail": "…"}`, always a string."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from control.errors import ActivationFailed, Invalid, NotFound, ServiceError
from stepserve.readable import readable

_RETRY_AFTER_S = {429: "10", 503: "1"}


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _crashed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    if _is_openai(request):
        return _enveloped(error)
    body: dict[str, Any] = {"detail": str(error)}
    if isinstance(error, ActivationFailed):
        shown = {"id", "method", "proof", "rolled_back_to"} | ({"gateways"} if error.result.gateways else set())
        body |= error.result.model_dump(include=shown)
    headers = {"Retry-After": _RETRY_AFTER_S[error.status]} if error.status in _RETRY_AFTER_S else None
    return JSONResponse(body, error.status, headers)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if _is_openai(request):
        return _enveloped(Invalid(readable(error.errors())))
    return JSONResponse({"detail": readable(error.errors())}, 422)


async def _crashed(request: Request, _error: Exception) -> JSONResponse:
    """Starlette logs the traceback after this answer."""
    if _is_openai(request):
        return _enveloped(ServiceError("internal error: the log has the traceback"))
    return JSONResponse({"detail": "internal error: the log has the traceback"}, 500)


def _is_openai(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


def _enveloped(error: ServiceError) -> JSONResponse:
    """OpenAI's envelope, in which what cannot be understood is a 400."""
    status = 400 if error.status == 422 else error.status
    field, separator, _ = str(error).partition(": ")
    content = {
        "message": str(error),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": field if separator and field.isidentifier() else None,
        "code": "not_found" if isinstance(error, NotFound) else None,
    }
    headers = {"Retry-After": _RETRY_AFTER_S[status]} if status in _RETRY_AFTER_S else None
    return JSONResponse({"error": content}, status, headers)
