"""Bodies that come compressed: gzip and deflate are taken, within the limit that holds for what comes out."""

import asyncio
import zlib

from gateway.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding
from gateway.http.asgi import Scope

_HEADER = b"content-encoding"
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # zlib's numbers for the two formats
_MOST_MEMBERS = 64  # each copies what comes after it
_IN_THREAD_BYTES = 1024  # up to a thousand times as much comes out of it, and a MB is what takes milliseconds


def encoding_of(scope: Scope) -> bytes | None:
    """None where the body is as it is."""
    said = next((value for name, value in scope["headers"] if name == _HEADER), b"").strip().lower()
    return said if said not in (b"", b"identity") else None


def check_encoding(scope: Scope) -> None:
    """For routes that take bodies as they are alone. Raises UnsupportedEncoding."""
    if (encoding := encoding_of(scope)) is not None:
        raise UnsupportedEncoding(encoding.decode("latin-1"), ())


async def plain_body(scope: Scope, body: bytes, limit_bytes: int) -> bytes:
    """The body uncompressed; the scope no longer says that it is. Raises UnsupportedEncoding, InvalidRequest,
    RequestTooLarge.
    """
    encoding = encoding_of(scope)
    if encoding is None:
        return body
    if encoding not in _WINDOWS:
        raise UnsupportedEncoding(encoding.decode("latin-1"), ("gzip", "deflate"))
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _HEADER]
    if len(body) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(_inflated, body, encoding, limit_bytes)
    return _inflated(body, encoding, limit_bytes)


def _inflated(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    plain = b""
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(_WINDOWS[encoding])
        try:
            plain += stream.decompress(body, limit_bytes - len(plain) + 1)
        except zlib.error as error:
            raise InvalidRequest(
                f"The body is not what its content-encoding says, {encoding.decode()}: {error}."
            ) from error
        if len(plain) > limit_bytes:
            raise RequestTooLarge(limit_bytes)
        if not stream.eof:
            raise InvalidRequest(f"The body ends in the middle of its {encoding.decode()} data.")
        body = stream.unused_data  # what was compressed in pieces (RFC 1952, 2.2)
        if not body:
            return plain
    raise InvalidRequest(f"The body is more than {_MOST_MEMBERS} pieces of {encoding.decode()} data.")
