"""`POST /generate` with `queue: true`, as a job: the same request, asked when its turn has come."""

import builtins
from pathlib import Path
from typing import Any, ClassVar

from control.errors import BadJob
from stepserve.contract import AskItem, AskRequest
from stepserve.jobs.ports import JobContext, JobRequest

_PATH = "/generate"


class InferenceJobRequest(JobRequest):
    """`request` is what the gateway has checked already."""

    request: dict[str, Any]


class InferenceKind:
    type: ClassVar[str] = "inference"
    route: ClassVar[str] = "/inference"
    request_model: ClassVar[builtins.type[JobRequest]] = InferenceJobRequest

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        return request.model_dump(mode="json")

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        asked: dict[str, Any] = config["request"]
        return asked

    async def run(self, context: JobContext) -> dict[str, Any]:
        """The result is the answer that /generate would have given. Raises BadJob where it would have refused."""
        await context.report(0, 1)
        asked = AskItem(path=_PATH, body=context.config["request"])
        model = context.model
        result = await context.engine.ask(AskRequest(model=model.id, digest=model.digest, items=[asked]))
        output = result.outputs[0]
        if output.status != 200 or not isinstance(output.body, dict):
            raise BadJob(f"refused with {output.status}: {_reason(output.body)}")
        await context.report(1, 1)
        return output.body


def _reason(body: object) -> object:
    return body.get("detail", body) if isinstance(body, dict) else body
