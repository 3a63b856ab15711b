"""One attempt at running a task file: the harness works, its log is taken in, and the run is an eval that is done."""

import asyncio
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.harness.environments import HarnessEnvironments
from evals.harness.kept_answers import KeptAnswers
from evals.harness.order import HarnessOrder
from evals.harness.process import HarnessProcess, ProcessLimits
from evals.harness.relay import Relay
from evals.harness.stored_task import PROGRAMS, StoredTask
from evals.harness.task_files import TaskFile, TaskFiles
from evals.interchange.answers import Unreadable
from evals.interchange.imported import ImportedRun, imported
from evals.interchange.written import write_run
from evals.run_files import METRICS_FILE, read_json
from stepserve.jobs.batch_scheduler import asking
from stepserve.jobs.errors import BadJob, Invalid, NotFound, WrongWeights
from stepserve.jobs.ports import JobContext
from stepserve.readable import readable
from stepserve.settings import TaskFileSettings

ANSWERS_FILE = "answers.jsonl"
LOG_FILE = "harness.log"

_WORK = "work"
_LOOK_EVERY_S = 1.0
_HARNESS_LENGTH = 2048  # lm-eval's own, where the checkpoint says nothing
_SHOWN_WORDS = 600

_jobs = logging.getLogger("stepserve.jobs")


@dataclass(frozen=True, slots=True)
class EngineBounds:
    """What the settings bound every model's context to, if anything, and the prompts of a request to."""

    max_model_len: int | None
    max_sequences: int


class TaskRun:
    def __init__(
        self,
        context: JobContext,
        files: TaskFiles,
        environments: HarnessEnvironments,
        settings: TaskFileSettings,
        bounds: EngineBounds,
    ) -> None:
        self._context = context
        self._files = files
        self._environments = environments
        self._settings = settings
        self._bounds = bounds
        self._task = StoredTask.of(context.config)
        self._program = PROGRAMS[self._task.harness]
        self._work = context.run_dir / _WORK

    async def run(self) -> dict[str, Any]:
        """Raises JobError and what the engine raises."""
        done = await asyncio.to_thread(read_json, self._context.run_dir / METRICS_FILE)
        if done is not None:
            self._check_weights(str(done.get("model_digest")))
            await asyncio.to_thread(self._clean)
            return done
        python, file = await asyncio.to_thread(self._ready)
        await asyncio.to_thread(self._make_folder)
        started_s = time.monotonic()
        with await asyncio.to_thread(KeptAnswers, self._context.run_dir / ANSWERS_FILE) as answers:
            ask = asking(self._context.engine, self._context.model)
            relay = Relay(ask, self._context.model.id, answers, self._task.options.max_connections)
            await self._context.report(0, None)
            async with relay.serving() as url:
                await self._work_through(relay, self._order(python, file, url, relay.key))
        run = await asyncio.to_thread(self._taken_in)
        total = int(run.result["total_samples"])
        run.result.update(
            {
                "harness": {
                    "name": self._task.harness,
                    "version": self._environments.version(self._task.harness),
                    "requests": relay.answered,
                    "requests_replayed": relay.replayed,
                },
                "prompt_tokens": relay.prompt_tokens,
                "completion_tokens": relay.completion_tokens,
                "seconds": time.monotonic() - started_s,
                **(await self._context.used()).shown(),
                "seed": self._task.options.seed,
            }
        )
        await asyncio.to_thread(self._finish, run)
        await self._context.report(total, total)
        return run.result

    def _ready(self) -> tuple[Path, TaskFile]:
        """Looked at again: hours may have passed since the job was made. Raises BadJob."""
        if self._settings.run_by == "nobody":
            raise BadJob("task files are not run here any more (setting task_files.run_by)")
        python = self._environments.python(self._task.harness)
        if python is None:
            raise BadJob(str(self._environments.why_not(self._task.harness)))
        try:
            file = self._files.find(self._task.spec.file, self._task.harness)
        except (NotFound, Invalid) as error:
            raise BadJob(str(error)) from error
        if file.digest != self._task.digest:
            raise BadJob(f"task.file: {file.ref}, or what lies with it, has changed since the job was made")
        return python, file

    def _make_folder(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        for name in ("home", "tmp"):
            (self._work / name).mkdir(parents=True)

    def _order(self, python: Path, file: TaskFile, url: str, key: str) -> HarnessOrder:
        options, model = self._task.options, self._context.model
        length = options.max_length or self._longest(Path(model.path))
        return HarnessOrder(
            python=python,
            task=self._task.spec,
            file=file.path,
            options=options,
            model=model,
            max_length=length,
            max_sequences=self._bounds.max_sequences,
            url=url,
            key=key,
            folder=self._work,
        )

    def _longest(self, checkpoint: Path) -> int:
        """Tokens of a prompt with its answer, as the checkpoint and the settings bound them."""
        config = _json_or_empty(checkpoint / "config.json")
        text = config.get("text_config")
        found = (text if isinstance(text, dict) else config).get("max_position_embeddings")
        own = found if isinstance(found, int) and found > 1 else _HARNESS_LENGTH
        return min(own, self._bounds.max_model_len or own)

    async def _work_through(self, relay: Relay, order: HarnessOrder) -> None:
        """Returns when the harness has ended well. Raises BadJob, and what ended the relay."""
        command = self._program.command(order)
        limits = ProcessLimits(self._settings.memory_bytes, self._settings.output_bytes)
        try:
            process = await HarnessProcess.start(
                command, self._environment(order), order.file.parent, limits, self._context.run_dir / LOG_FILE
            )
        except OSError as error:
            raise BadJob(f"{self._task.harness} cannot be started: {error}") from error
        self._note("harness started", file=self._task.spec.file)
        try:
            code = await self._watched(process, relay)
        finally:
            await process.end()
        self._note("harness ended", code=code, requests=relay.answered)
        if code:
            words = " ".join(process.last_words.split())[-_SHOWN_WORDS:]
            where = f"runs/eval/{self._context.job_id}/{LOG_FILE}"
            raise BadJob(f"{self._task.harness} ended with code {code}; its last words, and more in {where}: {words}")

    async def _watched(self, process: HarnessProcess, relay: Relay) -> int:
        """Its exit code. Raises BadJob past a limit, and what ended the relay."""
        ended = asyncio.create_task(process.wait(), name=f"end of the harness of {self._context.job_id}")
        failed = asyncio.create_task(relay.failed.wait(), name=f"end of the relay of {self._context.job_id}")
        limit_s = self._settings.time_limit_s
        deadline_s = time.monotonic() + limit_s
        try:
            while True:
                await asyncio.wait({ended, failed}, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if relay.failure is not None:
                    raise relay.failure
                if ended.done():
                    return ended.result()
                await self._context.report(relay.answered, None)
                if time.monotonic() > deadline_s:
                    raise BadJob(f"it took longer than {limit_s:g} s (setting task_files.time_limit_s)")
                if await asyncio.to_thread(_size_bytes, self._work) > self._settings.output_bytes:
                    most = self._settings.output_bytes
                    raise BadJob(f"the harness has written more than {most} bytes (setting task_files.output_bytes)")
        finally:
            ended.cancel()
            failed.cancel()

    def _environment(self, order: HarnessOrder) -> dict[str, str]:
        """Nothing of ours: settings in variables may hold keys."""
        offline = {} if self._settings.downloads else dict.fromkeys(_OFFLINE, "1")
        return {
            "PATH": f"{order.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(order.folder / "home"),
            "TMPDIR": str(order.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",  # in the tasks folder, whose content is what a job was made for
            "PYTHONUNBUFFERED": "1",
            "HF_HOME": str(order.folder / "home" / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **({name: value for name in _PROXIES if (value := os.environ.get(name))} if not offline else {}),
            **offline,
            **self._program.environment(order),
        }

    def _taken_in(self) -> ImportedRun:
        model = self._context.model
        try:
            body = self._program.log(self._work).read_bytes()
            return imported(
                body,
                self._task.harness,
                self._task.spec.metric,
                model_id=model.id,
                digest=model.digest,
                name=str(self._context.config.get("name")),
            )
        except Unreadable as error:
            said = f"task.{error}" if str(error).startswith("metric") else str(error)
            raise BadJob(f"what {self._task.harness} has written cannot be taken in: {said}") from error
        except ValidationError as error:
            said = readable(error.errors(include_url=False))
            raise BadJob(f"what {self._task.harness} has written cannot be taken in: {said}") from error

    def _finish(self, run: ImportedRun) -> None:
        model, run_dir = self._context.model, self._context.run_dir
        about = {"model": {"id": model.id, "path": model.path, "digest": model.digest}}
        try:
            write_run(run_dir, run, self._context.config | about)
        except ValueError as error:  # half of a surrogate pair, say
            raise BadJob(f"what {self._task.harness} has written cannot be stored: {error}") from error
        self._clean()

    def _clean(self) -> None:
        """Removes what only a run that goes on needs."""
        (self._context.run_dir / ANSWERS_FILE).unlink(missing_ok=True)
        shutil.rmtree(self._work, ignore_errors=True)

    def _check_weights(self, earlier_digest: str) -> None:
        model = self._context.model
        if earlier_digest != model.digest:
            raise WrongWeights(f"the run was done with {earlier_digest}; {model.id} is {model.digest} now")

    def _note(self, event: str, **facts: object) -> None:
        """A line of the jobs log."""
        about = {"job_id": self._context.job_id, "type": "eval", "harness": self._task.harness}
        _jobs.info({"event": event, **about, **facts})


_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "HF_ENDPOINT", "SSL_CERT_FILE")


def _json_or_empty(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size_bytes(folder: Path) -> int:
    """Of all files below it, as far as they stay while it looks."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(where, name).lstat().st_size
            except OSError:
                continue
    return total
