"""What the sender of a body that cannot be read is told."""

import pytest

from gateway.errors import InvalidRequest
from gateway.request.body import RequestBody
from gateway.request.bounds import HARMLESS_BYTES, RequestBounds

BOUNDS = RequestBounds.unbounded()
PADDING = b'"x": "' + b"a" * HARMLESS_BYTES + b'", '


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b'{"a": 1,\n "b" 2}', None, "line 2, column 6"),
        (b'{"a": 1, "b": [', None, "expecting value at line 1"),
        (b'{"a": 1} x', None, "extra data at line 1"),
        (b'{"a": "\xe9"}', None, "byte 0xe9 at position"),
        (b'{"temperature": NaN}', "temperature", "NaN"),
        (b'{"a": [{"t": -Infinity}]}', "a.0.t", "-Infinity"),
        (b'{"messages": [{"content": "a\\ud83d b"}]}', "messages.0.content", r"\ud83d at character 1"),
        (b'{"a": {"\\ude00": 1}}', "a", r"\ude00"),
    ],
)
def test_why_and_where(body: bytes, param: str | None, said: str, large: bool) -> None:
    if large:
        body = b"{" + PADDING + body[1:]
        said = said.replace("line 1, column", "column")
    with pytest.raises(InvalidRequest) as caught:
        BOUNDS.estimate_now(RequestBody(body))
    assert caught.value.param == param
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[1]", "an array"),
        (b'"x"', "a string"),
        (b"null", "null"),
        (b"\x1f\x8b\x08", "content-encoding: gzip"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b" ", "empty"),
    ],
)
def test_what_is_no_object(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        BOUNDS.estimate_now(RequestBody(body))


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" + b'{"model": "a"}', '{"model": "a", "x": "é😀"}'.encode()])
def test_what_is_read(body: bytes) -> None:
    read = RequestBody(body)
    BOUNDS.estimate_now(read)
    assert read.model == "a"
    assert read.raw.startswith(b"{")
