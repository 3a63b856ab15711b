"""POST /api/pull: control's own /pull, with its job's progress in Ollama's words."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
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
        """Waits for no second attempt of a job whose first brought nothing: nobody would see why that takes so long."""
        line: Json = {}
        async with aclosing(self._news(job_id)) as news:
            async for job in news:
                line = _line(job_id, job)
                if (reason := _stuck(job)) is not None:
                    line = {"error": f"{reason}; {job_id} tries again by itself: see /jobs/{job_id}"}
                    break
        await call.answer(line, 500 if "error" in line else 200)

    async def _all(self, call: Call, job_id: str) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await _write(call, {"status": "pulling manifest"})
        async for job in self._news(job_id):
            await _write(call, _line(job_id, job))
        await call.send({"type": "http.response.body", "body": b""})

    async def _news(self, job_id: str) -> AsyncGenerator[Json]:
        """The job's states, the last of which is its end or a `detail` that says why there are no more.

        The job goes on when its reader leaves.
        """
        events = EventData()
        try:
            async with self.control.listen(f"/jobs/{job_id}/events") as pieces:
                async for piece in pieces:
                    for data in events.feed(piece):
                        job = msgspec.json.decode(data)
                        yield job
                        if job.get("status") in ("done", "failed", "cancelled"):
                            return
        except Unserved as error:
            yield {"detail": str(error)}
            return
        yield {"detail": f"the news of {job_id} ended before it did: see /jobs/{job_id}"}


async def _write(call: Call, line: Json) -> None:
    body = msgspec.json.encode(line) + b"\n"
    await call.send({"type": "http.response.body", "body": body, "more_body": True})


def _stuck(job: Json) -> str | None:
    """Why a job waits for its next attempt, when the files have not begun to come."""
    if job.get("status") != "pending" or (job.get("progress") or {}).get("done"):
        return None
    return _complaint(job)


def _complaint(job: Json) -> str | None:
    """What its last attempt ended with. Only some of a job's news have its attempts."""
    attempts = job.get("attempts") or [{}]
    reason: str | None = attempts[-1].get("error")
    return reason


def _line(job_id: str, job: Json) -> Json:
    match job.get("status"):
        case "done":
            return {"status": "success"}
        case "failed" | "cancelled" as status:
            return {"error": job.get("error") or f"{job_id} was {status}"}
        case None:
            return {"error": str(job.get("detail", "the job cannot be followed"))}
    progress = job.get("progress") or {}
    waits = job.get("status") == "pending" and _complaint(job)
    line: Json = {"status": f"pulling {job_id}" + (f", which waits for its next attempt: {waits}" if waits else "")}
    if progress.get("total"):
        line |= {"digest": job_id, "total": progress["total"], "completed": progress["done"]}
    return line
