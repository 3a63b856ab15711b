"""How much each model, kind of request and job has used of the engines, for whoever shares out energy."""

from collections import OrderedDict

from gateway.metrics import TOKENS, model_label
from stepserve.contract import JobUsage, ModelUsage, RequestClass, UsageReport

BATCH_PREFIX = "batch-"
OWN_PREFIXES = ("alive-", "proof-")
_JOBS_KEPT = 256
_MODELS_KEPT = 64  # with their class


class UsageBook:
    """Counts finished generations since the process started; the jobs heard of last are kept apart too."""

    def __init__(self, boot_id: str = "", jobs_kept: int = _JOBS_KEPT) -> None:
        self.boot_id = boot_id
        self._models: OrderedDict[tuple[str, RequestClass], list[float]] = OrderedDict()
        self._jobs: OrderedDict[str, list[float]] = OrderedDict()
        self._jobs_kept = jobs_kept

    def note(
        self, model: str, engine_request_id: str, prompt_tokens: int, completion_tokens: int, busy_s: float
    ) -> None:
        """`engine_request_id` begins with what sort of request it was; `busy_s`: from scheduled to last token."""
        kind = class_of(engine_request_id)
        _add(self._models.setdefault((model, kind), [0, 0, 0, 0]), prompt_tokens, completion_tokens, busy_s)
        self._models.move_to_end((model, kind))
        if len(self._models) > _MODELS_KEPT:
            self._models.popitem(last=False)
        label = model_label(model)
        TOKENS.labels(label, kind, "prompt").inc(prompt_tokens)
        TOKENS.labels(label, kind, "completion").inc(completion_tokens)
        job = job_of(engine_request_id)
        if job is not None:
            _add(self._jobs.setdefault(job, [0, 0, 0, 0]), prompt_tokens, completion_tokens, busy_s)
            self._jobs.move_to_end(job)
            if len(self._jobs) > self._jobs_kept:
                self._jobs.popitem(last=False)

    def report(self, in_flight: int) -> UsageReport:
        return UsageReport(
            boot_id=self.boot_id,
            in_flight=in_flight,
            models=[
                ModelUsage(
                    model=model, request_class=kind, requests=int(n), prompt_tokens=int(prompt),
                    completion_tokens=int(completion), busy_s=busy_s,
                )
                for (model, kind), (n, prompt, completion, busy_s) in self._models.items()
            ],
            jobs=[
                JobUsage(
                    job_id=job, prompt_tokens=int(prompt), completion_tokens=int(completion), busy_s=busy_s
                )
                for job, (_, prompt, completion, busy_s) in self._jobs.items()
            ],
        )  # fmt: skip


def batch_id(job: str | None, unique: str) -> str:
    """What the requests of a batch begin with."""
    return f"{BATCH_PREFIX}{job or ''}.{unique}"


def class_of(engine_request_id: str) -> RequestClass:
    if engine_request_id.startswith(BATCH_PREFIX):
        return "batch"
    return "probe" if engine_request_id.startswith(OWN_PREFIXES) else "interactive"


def job_of(engine_request_id: str) -> str | None:
    if not engine_request_id.startswith(BATCH_PREFIX):
        return None
    return engine_request_id.removeprefix(BATCH_PREFIX).partition(".")[0] or None


def _add(row: list[float], prompt_tokens: int, completion_tokens: int, busy_s: float) -> None:
    row[0] += 1
    row[1] += prompt_tokens
    row[2] += completion_tokens
    row[3] += busy_s


usage = UsageBook()
"""Of this process: vLLM's stat loggers, which it makes by itself, write into this one."""
