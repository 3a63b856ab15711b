"""PUTs parts of files: the kernel takes the bytes from the file to the socket, and Python sees none of them."""

import http.client
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from stepserve.client.errors import StepserveError, Unreachable
from stepserve.client.options import Options
from stepserve.client.wire import content_of

_SENT_AT_ONCE_BYTES = 4 * 1024 * 1024


class FileSender:
    """One connection, made when it is needed and made anew after a failure. Of one thread."""

    def __init__(self, options: Options, timeout_s: float) -> None:
        self._options = options
        self._url = urlsplit(options.url)
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def put(
        self, path: str, file: Path, begin: int, end: int, headers: Mapping[str, str], stopped: Callable[[], bool]
    ) -> Any:
        """The JSON of the answer to a PUT of bytes [begin, end). Raises Unreachable, and as wire.content_of.

        Not repeated: what has arrived of a body that broke off is the server's to say.
        """
        connection = self._connection or self._connect()
        try:
            connection.putrequest("PUT", self._url.path.rstrip("/") + path, skip_accept_encoding=True)
            for name, value in {**self._options.headers(), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            with file.open("rb", buffering=0) as stream:
                _send(connection, stream.fileno(), begin, end, stopped)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(self._options.url, str(error) or type(error).__name__, sent=True) from error
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        request = httpx.Request("PUT", self._options.url + path)
        return content_of(httpx.Response(answer.status, headers=answer.getheaders(), content=content, request=request))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return self._connection


def _send(connection: http.client.HTTPConnection, file: int, begin: int, end: int, stopped: Callable[[], bool]) -> None:
    """Ends early when the file does, and the server will see a body that is too short."""
    sock = connection.sock
    with os.fdopen(os.dup(file), "rb") as stream:
        while begin < end:
            if stopped():
                raise StepserveError("The push was stopped.")
            count = sock.sendfile(stream, begin, min(end - begin, _SENT_AT_ONCE_BYTES))
            if not count:
                raise OSError("the file became shorter while it was sent")
            begin += count
