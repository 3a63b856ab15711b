"""A batch as a job: every line of its input file asked once, below interactive requests."""

import asyncio
import builtins
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from control.batches.answers import Answers
from control.batches.files import FileStore
from control.batches.requests import Endpoint, Line, read, scan
from control.errors import BadJob, Invalid, NotFound
from stepserve.contract import AskItem, AskOutput
from stepserve.jobs.batch_scheduler import BatchScheduler, asking
from stepserve.jobs.ports import JobContext, JobRequest

# Each request of a batch is a whole HTTP request inside the gateway: so many at a time keep an engine busy, and leave
# the gateway's event loop to others in between.
_CHUNK_REQUESTS = 16
_CHUNKS_IN_FLIGHT = 8

MetadataText = Annotated[str, Field(max_length=512)]


class BatchJobRequest(JobRequest):
    input_file_id: Annotated[str, Field(min_length=1, max_length=256)]
    endpoint: Endpoint
    completion_window: Literal["24h"] = "24h"
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], MetadataText], Field(max_length=16)] | None = None


class BatchKind:
    type: ClassVar[str] = "batch"
    route: ClassVar[str] = "/batches"
    request_model: ClassVar[builtins.type[JobRequest]] = BatchJobRequest

    def __init__(self, files: FileStore, max_sequences: int) -> None:
        """`max_sequences`: of one request's prompts times their answers."""
        self._files = files
        self._max_sequences = max_sequences

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """Reads every line once. Blocks; raises Invalid and NotFound."""
        assert isinstance(request, BatchJobRequest)
        facts = scan(self._files.path(request.input_file_id), request.endpoint, self._max_sequences)
        return request.model_dump(mode="json") | {"requests": facts.requests, "input_digest": facts.digest}

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        return {"input": config["input_digest"], "endpoint": config["endpoint"]}

    async def run(self, context: JobContext) -> dict[str, Any]:
        """Appends to output.jsonl and errors.jsonl; a second attempt goes on where the first one stopped."""
        try:
            path = self._files.path(context.config["input_file_id"])
        except NotFound as error:
            raise BadJob(f"the input file was deleted: {error}") from error
        with await asyncio.to_thread(Answers, context.run_dir, context.job_id) as answers:
            total: int = context.config["requests"]
            await context.report(len(answers.answered), total)
            known = answers.answered
            lines = (line for line in read(path, context.config["endpoint"]) if line.custom_id not in known)
            await self._ask_all(context, lines, answers, total)
            await asyncio.to_thread(answers.sync)
            if answers.completed + answers.failed != total:
                raise BadJob(f"{answers.completed + answers.failed} of {total} requests were answered")
            return {"total": total, "completed": answers.completed, "failed": answers.failed}

    async def _ask_all(self, context: JobContext, lines: Iterator[Line], answers: Answers, total: int) -> None:
        ask, endpoint = asking(context.engine, context.model), context.config["endpoint"]
        scheduler: BatchScheduler[Line, AskOutput] = BatchScheduler(
            lambda chunk: ask([AskItem(path=endpoint, body=line.body) for line in chunk]),
            chunk_items=_CHUNK_REQUESTS,
            window_items=_CHUNK_REQUESTS * _CHUNKS_IN_FLIGHT,
        )
        try:
            async with aclosing(scheduler.stream(lines, reads_in_thread=True)) as answered:
                async for chunk in answered:
                    answers.append(chunk)
                    await context.report(answers.completed + answers.failed, total)
        except Invalid as error:
            raise BadJob(f"the input file changed since the batch was made: {error}") from error
