"""vLLM's server-sent events, from whatever pieces their bytes come in."""

from collections.abc import Iterator

DONE = b"[DONE]"


class EventData:
    """Feed it bytes, get the `data` of each complete event; comments and names are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
