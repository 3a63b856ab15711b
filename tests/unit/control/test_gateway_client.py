"""Nothing of httpx comes out of the gateway client."""

import inspect

import httpx
import pytest

from control.errors import GatewayUnavailable
from control.gateway_client import translated

HTTPX_ERRORS = [
    member
    for member in vars(httpx).values()
    if inspect.isclass(member) and issubclass(member, Exception) and member.__module__.startswith("httpx")
]


def test_httpx_has_errors() -> None:
    assert httpx.ConnectError in HTTPX_ERRORS


@pytest.mark.parametrize("error", HTTPX_ERRORS, ids=lambda error: error.__name__)
def test_every_httpx_error_is_translated(error: type[Exception]) -> None:
    with pytest.raises(GatewayUnavailable), translated():
        raise error.__new__(error)
