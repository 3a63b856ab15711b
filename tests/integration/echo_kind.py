"""The smallest kind of job: asks a number of questions, one a step, when it is let."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from control.errors import Invalid
from stepserve.contract import BatchItem, BatchRequest
from stepserve.jobs.ports import JobContext, JobRequest

_RequestModel = type[JobRequest]


class EchoRequest(JobRequest):
    steps: Annotated[int, Field(ge=1)] = 1


class EchoKind:
    """Clear `may_go` to hold a job at its first step; `crash` is raised inside the run. `most`: so many ran at once."""

    type: ClassVar[str] = "echo"
    route: ClassVar[str] = "/echo"
    request_model: ClassVar[_RequestModel] = EchoRequest

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.crash: Exception | None = None
        self.running = self.most = 0

    def _has_ended(self) -> None:
        self.running -= 1
        self.ended.set()

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        assert isinstance(request, EchoRequest)
        if request.steps == 13:
            raise Invalid("steps: 13 is refused")
        return request.model_dump()

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        return {"steps": config["steps"]}

    async def run(self, context: JobContext) -> dict[str, Any]:
        self.ended.clear()
        self.started.set()
        self.running += 1
        self.most = max(self.most, self.running)
        with contextlib.ExitStack() as stack:
            stack.callback(self._has_ended)
            await self.may_go.wait()
            if self.crash is not None:
                raise self.crash
            steps = context.config["steps"]
            texts = []
            for step in range(steps):
                result = await context.engine.generate(
                    BatchRequest(
                        model=context.model.id, digest=context.model.digest, items=[BatchItem(prompt=str(step))]
                    )
                )
                texts.append(result.outputs[0].text)
                await context.report(step + 1, steps)
            (context.run_dir / "texts.txt").write_text("\n".join(texts))
            return {"texts": texts}
