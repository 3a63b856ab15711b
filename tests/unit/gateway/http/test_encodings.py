"""Bodies that come compressed."""

import asyncio
import gzip
import zlib

import pytest

from gateway.errors import GatewayError, InvalidRequest, RequestTooLarge, UnsupportedEncoding
from gateway.http.asgi import Scope
from gateway.http.encodings import plain_body

BODY = b'{"model": "a"}' * 10_000


def scope(encoding: bytes) -> Scope:
    return {"headers": [(b"content-type", b"application/json"), (b"content-encoding", encoding)]}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(BODY)),
        (b"GZip", gzip.compress(BODY)),
        (b"deflate", zlib.compress(BODY)),
        (b"gzip", gzip.compress(BODY[:10]) + gzip.compress(BODY[10:])),
    ],
)
def test_gzip_and_deflate_are_taken(encoding: bytes, body: bytes) -> None:
    sent = scope(encoding)
    assert asyncio.run(plain_body(sent, body, len(BODY))) == BODY
    assert sent["headers"] == [(b"content-type", b"application/json")], "nobody further in is to uncompress it again"


@pytest.mark.parametrize(
    ("encoding", "body", "limit", "error", "said"),
    [
        (b"br", b"x", 100, UnsupportedEncoding, "br: gzip and deflate"),
        (b"gzip", b"{}", 100, InvalidRequest, "not what its content-encoding says"),
        (b"gzip", gzip.compress(BODY)[:-20], len(BODY), InvalidRequest, "in the middle"),
        (b"gzip", gzip.compress(BODY), len(BODY) - 1, RequestTooLarge, "longer than"),
        (b"gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), len(BODY) - 1, RequestTooLarge, "longer than"),
        (b"gzip", gzip.compress(BODY) + b"more", len(BODY), InvalidRequest, "not what its content-encoding says"),
        (b"gzip", gzip.compress(b"") * 100, len(BODY), InvalidRequest, "more than 64 pieces"),
    ],
)
def test_what_is_refused(encoding: bytes, body: bytes, limit: int, error: type[GatewayError], said: str) -> None:
    with pytest.raises(error, match=said):
        asyncio.run(plain_body(scope(encoding), body, limit))


def test_a_small_body_of_which_much_comes_out_holds_up_nobody() -> None:
    length = 30 * 1024 * 1024
    bomb = gzip.compress(b" " * length)
    assert len(bomb) < 32 * 1024

    async def run() -> int:
        task = asyncio.create_task(plain_body(scope(b"gzip"), bomb, length))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        assert len(await task) == length
        return turns

    assert asyncio.run(run()) > 20, "of others meanwhile"
