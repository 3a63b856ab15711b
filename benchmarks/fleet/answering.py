"""Members that only answer batches, all in one process: `python -m benchmarks.fleet.answering SAMPLE_S`.

It prints its port. Each bearer token is a member of its own, which works on SAMPLES_AT_ONCE items at a time; each
takes so many seconds. Their work is their own process's, so that the asking process's CPU time is control's alone.
"""

import asyncio
import json
import sys
from collections import defaultdict

from stepserve.contract import BatchOutput, BatchRequest, BatchResult

SAMPLES_AT_ONCE = 100
_OUTPUT = BatchOutput(
    text="The sum of both is found digit by digit, from the right to the left. " * 3 + "So it is 42.",
    finish_reason="stop",
    prompt_tokens=40,
    completion_tokens=60,
    latency_s=1.25,
)


class Member:
    """What it is given is done in order."""

    def __init__(self, sample_s: float) -> None:
        self._sample_s = sample_s
        self._done_at_s = 0.0

    async def works(self, items: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._done_at_s = max(now_s, self._done_at_s) + items * self._sample_s / SAMPLES_AT_ONCE
        await asyncio.sleep(max(self._done_at_s - now_s, self._sample_s))


async def _serve(sample_s: float) -> None:
    members: dict[str, Member] = defaultdict(lambda: Member(sample_s))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                request = BatchRequest.model_validate_json(await reader.readexactly(int(fields["content-length"])))
                await members[fields["authorization"]].works(len(request.items))
                body = _answer(request)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


def _answer(request: BatchRequest) -> bytes:
    outputs = [_OUTPUT] * len(request.items)
    result = BatchResult(model=request.model, digest=request.digest or "", outputs=outputs)
    return json.dumps(result.model_dump(mode="json")).encode()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
