"""What a request may ask of what is kept."""

import json
from typing import Any

import pytest

from gateway.errors import InvalidField
from gateway.request.body import RequestBody
from gateway.request.client_fields import check
from gateway.request.estimate import estimate_of
from gateway.responses.wish import going_on, wish_of


def body(**fields: Any) -> RequestBody:
    return RequestBody(json.dumps({"model": "a", "input": "x", **fields}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": ""}, {"previous_response_id": "resp_\0"}, {"conversation": {"id": "conv_\n"}},
        {"conversation": 1}, {"conversation": {}},
    ],
)  # fmt: skip
def test_what_could_never_be_kept_under_that_name_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        wish_of(body(**fields), store=True)
    assert refused.value.param == next(iter(fields))


def test_a_name_that_no_database_takes_is_refused() -> None:
    with pytest.raises(InvalidField, match="printable"):
        check(estimate_of(body(request_id="resp_\0"), "/v1/responses"), "/v1/responses")


def test_all_else_is_asked_as_it_came() -> None:
    asked = RequestBody(b'{"model": "a", "input": "x", "previous_response_id": "resp_1", "top_p": 1e999}')
    item = {"type": "message", "role": "user", "content": "w"}
    whole = going_on(asked, [item])
    assert b'"top_p":1e999' in whole
    assert json.loads(whole)["input"] == [item, {"type": "message", "role": "user", "content": "x"}]
