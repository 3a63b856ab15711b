"""POST /api/pull: control's own /pull, with its job's progress in Ollama's words."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from gateway.dialects.call import Call, Json
from gateway.dialects.events import EventData
from gateway.dialects.ollama.requests import NameRequest
from gateway.errors import Unserved
from gateway.http.asgi import unless_disconnected
from gateway.http.error_rendering import Failure
from gateway.sidecar.control_link import ControlProxy


@dataclass(frozen=True, slots=True)
class Pull:
    control: ControlProxy

    async def __call__(self, call: Call, request: NameRequest) -> None:
        """Raises Unserved while control is away, InvalidRequest without a name."""
        answer = await self.control.request("POST", "/pull", {"model": request.named()})
        if answer.status_code == 404:
            message = "this server fetches no models: register a checkpoint with POST /models/register"
            await call.refuse(Failure(501, message))
            return
        if answer.status_code not in (200, 202):
            await call.refuse(Failure.said(answer.status_code, answer.content))
            return
        job_id: str = answer.json()["job_id"]
        follow = self._last(call, job_id) if request.stream is False else self._all(call, job_id)
        await unless_disconnected(follow, call.receive)

    async def _last(self, call: Call, job_id: str) -> None:
        lines = [line async for line in self._progress(job_id)]
        await call.answer(lines[-1], 500 if "error" in lines[-1] else 200)

    async def _all(self, call: Call, job_id: str) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._progress(job_id):
            body = msgspec.json.encode(line) + b"\n"
            await call.send({"type": "http.response.body", "body": body, "more_body": True})
        await call.send({"type": "http.response.body", "body": b""})

    async def _progress(self, job_id: str) -> AsyncIterator[Json]:
        """Ends with `success` or an `error`; the job goes on when its reader leaves."""
        yield {"status": "pulling manifest"}
        events = EventData()
        try:
            async with self.control.listen(f"/jobs/{job_id}/events") as pieces:
                async for piece in pieces:
                    for data in events.feed(piece):
                        job = msgspec.json.decode(data)
                        yield _line(job_id, job)
                        if job.get("status") in ("done", "failed", "cancelled"):
                            return
        except Unserved as error:
            yield {"error": str(error)}
            return
        yield {"error": f"the news of {job_id} ended before it did: see /jobs/{job_id}"}


def _line(job_id: str, job: Json) -> Json:
    match job.get("status"):
        case "done":
            return {"status": "success"}
        case "failed" | "cancelled" as status:
            return {"error": job.get("error") or f"{job_id} was {status}"}
        case None:
            return {"error": str(job.get("detail", "the job cannot be followed"))}
    progress = job.get("progress") or {}
    line: Json = {"status": f"pulling {job_id}"}
    if progress.get("total"):
        line |= {"digest": job_id, "total": progress["total"], "completed": progress["done"]}
    return line
