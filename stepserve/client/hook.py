"""CheckpointHook: what a training loop calls after saving; everything else happens beside the training.

It never blocks and never raises into the training: what goes wrong is logged in a sentence, and the training goes on.
"""

import contextlib
import glob
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepserve.client.checkpoint import look
from stepserve.client.client import Client
from stepserve.client.errors import Refused, StepserveError, Unavailable, Unreachable
from stepserve.client.push import push_checkpoint
from stepserve.client.results import Job

log = logging.getLogger(__name__)

POLL_S = 2.0
MAX_WAITING = 8
SNAPSHOTS = ".stepserve"
_COUNTED = ("accuracy", "avg_loss", "perplexity")  # of a result, beside what the eval's own metrics are called


@dataclass(frozen=True, slots=True)
class Eval:
    """An eval of every checkpoint. `options` go to the server as they are (`max_tokens`, `num_fewshot` …)."""

    dataset: str
    metrics: Sequence[str] = ("accuracy",)
    max_samples: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return Path(self.dataset).name.removesuffix(".gz").removesuffix(".jsonl")


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an eval said of the checkpoint of `step`: `{"eval/math_eval/accuracy": 0.93}`."""

    step: int
    values: dict[str, float]
    job_id: str


@dataclass(frozen=True, slots=True)
class _Saved:
    path: Path
    step: int
    probe: Mapping[str, Any] | None
    snapshot: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    step: int
    wanted: Eval
    job_id: str


class CheckpointHook:
    """Pushes every checkpoint of the run `run` as `<run>-step-<step>`, and asks for evals of it.

    A step that is saved again, by a training that was started again, replaces what it was before.

    `activate`: switch to it. `evals`: names of datasets, or Eval; their jobs have the key `run:step:dataset`, so a
    training that is started again asks for none twice. Without `activate` the server borrows its engine for them.
    `server_path`: register what is (or will be, by your own rsync) on the server in the folder that this function names
    for a checkpoint's path, instead of pushing. `keep`: so many of this run's models stay on the server.
    `base_model`: for adapters, the server's id of the model that is trained on. `chat_template`: for checkpoints that
    have none, a name (`chatml`, `plain` …) or Jinja text.
    `on_metrics` is called from a thread as results come in; `results` gives them to a loop that would rather ask.
    """

    def __init__(
        self,
        run: str,
        *,
        client: Client | None = None,
        activate: bool = False,
        evals: Sequence[str | Eval] = (),
        tags: Sequence[str] = (),
        server_path: Callable[[Path], str] | None = None,
        keep: int | None = None,
        base_model: str | None = None,
        chat_template: str | None = None,
        retry_s: float = 600.0,
        on_metrics: Callable[[Metrics], None] | None = None,
    ) -> None:
        self.run = run_id(run)
        self._client = client or Client(retry_s=retry_s)
        self._own_client = client is None
        self._activate = activate
        self._evals = [Eval(each) if isinstance(each, str) else each for each in evals]
        self._tags = tags
        self._server_path = server_path
        self._keep = keep
        self._base_model = base_model
        self._chat_template = chat_template
        self._retry_s = retry_s
        self._on_metrics = on_metrics
        self._changed = threading.Condition()
        self._waiting: deque[_Saved] = deque()
        self._working = False
        self._asked: list[_Asked] = []
        self._results: list[Metrics] = []
        self._registered: deque[str] = deque()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def saved(self, path: str | os.PathLike[str], step: int, probe: Mapping[str, Any] | None = None) -> None:
        """Takes the checkpoint in; returns at once. Call it on one rank only.

        The files are linked aside first, so that a trainer that keeps few checkpoints may remove this one meanwhile.
        """
        saved = self._snapshot(Path(path).resolve(), step, probe)
        with self._changed:
            if self._closed:
                log.warning("checkpoint %s came after the end and is left out", path)
                return
            self._waiting.append(saved)
            while len(self._waiting) > MAX_WAITING:
                late = self._waiting.popleft()
                log.warning("checkpoint of step %d is left out: the server is %d behind", late.step, MAX_WAITING)
                _forget(late)
            self._start()
            self._changed.notify_all()

    def results(self) -> list[Metrics]:
        """Those that have come since the last call."""
        with self._changed:
            arrived, self._results = self._results, []
        return arrived

    def drain(self, timeout_s: float = 1800.0) -> bool:
        """Waits until every checkpoint is there and every eval has ended; False when `timeout_s` was not enough."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout_s)

    def close(self, timeout_s: float = 1800.0) -> bool:
        """`drain`, and then the end. What is not done by then is left; evals go on at the server."""
        done = self.drain(timeout_s)
        if not done:
            log.warning("%d checkpoints and %d evals were not waited for", len(self._waiting), len(self._asked))
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5.0)
        if self._own_client:
            self._client.close()
        return done

    def _idle(self) -> bool:
        return not (self._waiting or self._working or self._asked)

    def _start(self) -> None:
        if not self._threads:
            for work in (self._deliver, self._collect):
                thread = threading.Thread(target=work, name=f"stepserve-{work.__name__.strip('_')}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _deliver(self) -> None:
        """One checkpoint after the other, in a thread of its own."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                saved, self._working = self._waiting.popleft(), True
            try:
                self._hand_over(saved)
            except StepserveError as error:
                log.warning("checkpoint of step %d is not on the server: %s", saved.step, error)
            except Exception:
                # The boundary to somebody else's training: a defect here must not end it.
                log.exception("checkpoint of step %d is not on the server", saved.step)
            finally:
                _forget(saved)
                with self._changed:
                    self._working = False
                    self._changed.notify_all()

    def _hand_over(self, saved: _Saved) -> None:
        model_id = f"{self.run}-step-{saved.step}"
        told: dict[str, Any] = {
            "replace": True,
            "tags": [*self._tags, self.run],
            "step": saved.step,
            "probe": saved.probe,
            "base_model": self._base_model,
            "chat_template": self._chat_template,
        }
        if self._server_path is not None:
            registration = self._client.register_model(model_id, "trainer", path=self._server_path(saved.path), **told)
        else:
            pushed = push_checkpoint(
                saved.path, model_id, client=self._client, retry_s=self._retry_s, resume_key=model_id, **told
            )
            registration = pushed.registration
            log.info("%s: %.0f MB sent in %.1f s", model_id, pushed.sent_bytes / 1e6, pushed.seconds)
        for warning in registration.warnings:
            log.warning("%s", warning)
        if self._activate:
            try:
                self._client.set_active_model(model_id)
            except Refused as error:
                log.warning("%s is not active: %s", model_id, error)
        for wanted in self._evals:
            self._ask(model_id, saved.step, wanted)
        self._registered.append(model_id)
        while self._keep is not None and len(self._registered) > self._keep:
            self._remove(self._registered.popleft())

    def _ask(self, model_id: str, step: int, wanted: Eval) -> None:
        options = {"when_inactive": "wait" if self._activate else "switch", **wanted.options}
        try:
            made = self._client.eval_job(
                model_id,
                f"{self.run} step {step}",
                wanted.dataset,
                wanted.metrics,
                wanted.max_samples,
                idempotency_key=f"{self.run}:{step}:{wanted.label}",
                **options,
            )
        except StepserveError as error:
            log.warning("no eval of step %d on %s: %s", step, wanted.dataset, error)
            return
        with self._changed:
            self._asked.append(_Asked(step, wanted, made.job_id))
            self._changed.notify_all()

    def _remove(self, model_id: str) -> None:
        """What is active, or used by a job, stays."""
        with contextlib.suppress(Refused):
            self._client.delete_model(model_id, files=True)

    def _collect(self) -> None:
        """Asks after the evals now and then, in a thread of its own."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closed)
                if self._closed:
                    return
                asked = list(self._asked)
            for one in asked:
                try:
                    self._look(one)
                except (Unreachable, Unavailable) as error:
                    log.debug("the results of step %d wait: %s", one.step, error)
                except StepserveError as error:
                    log.warning("no result of step %d on %s: %s", one.step, one.wanted.dataset, error)
                    self._settle(one)
                except Exception:
                    # As in `_deliver`: `on_metrics` is the training's own code too.
                    log.exception("no result of step %d on %s", one.step, one.wanted.dataset)
                    self._settle(one)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, POLL_S)

    def _look(self, one: _Asked) -> None:
        job = self._client.get_job(one.job_id)
        if not job.is_over:
            return
        if job.status != "done":
            log.warning("the eval of step %d on %s: %s", one.step, one.wanted.dataset, job.error or job.status)
            self._settle(one)
            return
        metrics = Metrics(one.step, metrics_of(job, one.wanted), job.id)
        if self._on_metrics is not None:
            self._on_metrics(metrics)
        self._settle(one, metrics)

    def _settle(self, one: _Asked, metrics: Metrics | None = None) -> None:
        with self._changed:
            if one in self._asked:
                self._asked.remove(one)
                if metrics is not None:
                    self._results.append(metrics)
            self._changed.notify_all()

    def _snapshot(self, path: Path, step: int, probe: Mapping[str, Any] | None) -> _Saved:
        """Hard links to the model's files; where the file system has none, the files themselves."""
        if self._server_path is not None:
            return _Saved(path, step, probe, snapshot=False)
        if not self._threads:
            _forget_killed(path.parent / SNAPSHOTS)
        aside = path.parent / SNAPSHOTS / _own_folder() / f"{path.name}-{time.monotonic_ns()}"
        try:
            for file in look(path):
                (aside / file.name).parent.mkdir(parents=True, exist_ok=True)
                os.link(file.path, aside / file.name)
        except (OSError, StepserveError):
            shutil.rmtree(aside, ignore_errors=True)
            return _Saved(path, step, probe, snapshot=False)
        return _Saved(aside, step, probe, snapshot=True)


def run_id(run: str) -> str:
    """The run's name as far as a model's id may hold it. Raises ValueError when nothing of it may."""
    named = re.sub(r"[^A-Za-z0-9._-]+|\.\.+", "-", run).lstrip("._-")[:100]
    if not named:
        raise ValueError(f"run {run!r}: no model's id can be made of it")
    return named


def metrics_of(job: Job, wanted: Eval) -> dict[str, float]:
    """The result's numbers under `eval/<dataset>/`: those asked for and the usual ones."""
    result = job.result or {}
    means = {name: told.get("mean") for name, told in (result.get("metrics") or {}).items() if isinstance(told, dict)}
    names = dict.fromkeys([*wanted.metrics, *means, *_COUNTED])
    numbers = {name: result.get(name, means.get(name)) for name in names}
    return {
        f"eval/{wanted.label}/{name}": float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _forget(saved: _Saved) -> None:
    if saved.snapshot:
        shutil.rmtree(saved.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            saved.path.parent.rmdir()
            saved.path.parent.parent.rmdir()


def _own_folder() -> str:
    """Trainings that save into one folder keep their snapshots apart."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _forget_killed(snapshots: Path) -> None:
    """What trainings of this machine left that run no more."""
    for folder in snapshots.glob(f"{glob.escape(socket.gethostname())}-*"):
        number = folder.name.rpartition("-")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
