"""`queue: true`: the request becomes a durable job, which control keeps and asks for when its turn has come."""

from dataclasses import dataclass

from gateway.dialects.call import Call, Json
from gateway.errors import InvalidRequest
from gateway.http.error_rendering import Failure
from gateway.serving.naming import Naming
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import ACTIVE_ALIAS

_JOBS_PATH = "/inference/jobs"
_KEY = b"idempotency-key"


@dataclass(frozen=True, slots=True)
class Queueing:
    control: ControlProxy
    naming: Naming

    async def accept(self, call: Call, name: str | None, request: Json) -> None:
        """Answers 202 with the job's id, or with control's own refusal. Raises Unserved when control is away,
        InvalidRequest for a key that cannot be handed on.
        """
        model = self.naming.target(name) or ACTIVE_ALIAS
        asked = {key: value for key, value in request.items() if key not in {"model", "model_id", "queue", "stream"}}
        body = {"model_id": model, "request": self.naming.preset(name, "/generate") | asked}
        key = next((value.decode("latin-1") for name, value in call.scope["headers"] if name == _KEY), None)
        if key is not None and not key.isascii():
            raise InvalidRequest("Idempotency-Key: only ASCII characters are taken")
        headers = {} if key is None else {"idempotency-key": key}
        answer = await self.control.request("POST", _JOBS_PATH, body, headers)
        if answer.status_code != 200:
            await call.refuse(Failure.said(answer.status_code, answer.content))
            return
        job = answer.json()
        await call.answer({**job, "message": f"Queued: the answer will be at /jobs/{job['job_id']}."}, 202)
