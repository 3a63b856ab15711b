"""What the server answers, typed. A newer server may say more: unknown fields are kept and can be read too.

Every result is also read like the JSON it came as: `job.status` and `job["status"]` are the same.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

JobStatus = Literal["pending", "running", "done", "failed", "cancelled"]
OVER: frozenset[str] = frozenset({"done", "failed", "cancelled"})


class Result(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self.model_fields_set

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def keys(self) -> Iterator[str]:
        return iter(self.model_fields_set)

    def as_json(self) -> dict[str, Any]:
        """What came over the wire, no more."""
        return self.model_dump(mode="json", exclude_unset=True)


class Health(Result):
    status: Literal["ok", "loading", "degraded", "error"]
    active_model: str | None = None
    fault: str | None = None
    proved_at: datetime | None = None
    uptime_seconds: float | None = None
    control: str | None = None
    gpu: dict[str, Any] = {}
    worker_busy: bool = False


class Version(Result):
    api_version: str
    python_version: str | None = None
    torch_version: str | None = None
    transformers_version: str | None = None
    vllm_version: str | None = None
    cuda_available: bool | None = None
    cuda_version: str | None = None


class Info(Result):
    version: str
    base_dir: str | None = None
    models_dir: str | None = None
    runs_dir: str | None = None
    datasets_dir: str | None = None
    db_path: str | None = None


class Gpu(Result):
    """The first card at top level, every card in `gpus`."""

    name: str | None = None
    driver_version: str | None = None
    memory_total_mb: float | None = None
    memory_used_mb: float | None = None
    utilization_gpu: float | None = None
    utilization_mem: float | None = None
    temperature_gpu: float | None = None
    power_draw_w: float | None = None
    power_limit_w: float | None = None
    fan_speed_pct: float | None = None
    gpus: list[dict[str, Any]] = []


class System(Result):
    cpu_load: float
    ram_used_gb: float
    ram_total_gb: float
    ram_percent: float
    disk: list[dict[str, Any]] = []


class Power(Result):
    profile: str | None = None
    power_limit_w: float | None = None
    max_concurrent_jobs: int | None = None


class LogTail(Result):
    component: str
    lines: list[Any]


class Model(Result):
    id: str
    digest: str
    path: str | None = None
    source: str | None = None
    created_at: datetime | None = None
    tags: list[str] = []
    step: int | None = None
    is_active: bool = False
    loaded: bool = False
    backend: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    quantization: str | None = None
    base_model: str | None = None
    chat_template: str | None = None
    warnings: list[str] = []
    load_duration: float | None = None
    local_path: str | None = None


class Activation(Result):
    """How a switch ended; times in milliseconds. `reference_wait_ms` is part of `total_ms`.

    `gateways`: on a fleet, how it went on each.
    """

    status: str
    id: str
    previous: str | None = None
    method: str | None = None
    paused_ms: float | None = None
    total_ms: float | None = None
    reference_wait_ms: float | None = None
    in_flight: int | None = None
    proof: dict[str, Any] | None = None
    gateways: list[dict[str, Any]] | None = None


class PastActivation(Activation):
    activation_id: int
    phase: str | None = None
    digest: str | None = None
    cause: str | None = None
    error: str | None = None
    rolled_back_to: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Registration(Result):
    """`existing`: the same content was registered under this id before; `replaced`: the digest that had the id.

    With `quantize`, `base_model` or `chat_template` the digest is that of what is loaded, not of the files. `warnings`:
    what a person should know, such as that the model has no chat template. `removal`: what was removed of the replaced
    content's folder, and what was left.
    """

    status: str
    id: str
    digest: str
    existing: bool = False
    replaced: str | None = None
    quantize: str | None = None
    base_model: str | None = None
    chat_template: str | None = None
    warnings: list[str] = []
    activation: Activation | None = None
    removal: dict[str, Any] | None = None

    @property
    def digest_is_of_files(self) -> bool:
        return self.quantize is None and self.base_model is None and self.chat_template is None


class ActiveModel(Result):
    id: str
    digest: str
    path: str | None = None
    since: datetime | None = None


class Progress(Result):
    done: int
    total: int | None = None
    rate_per_s: float | None = None
    eta_s: float | None = None


class MadeJob(Result):
    """The answer to making a job. `existing`: this idempotency key made it before."""

    job_id: str
    status: str
    existing: bool = False
    deduplicated: bool = False


class Job(Result):
    id: str
    type: str
    status: JobStatus
    model_id: str | None = None
    config: dict[str, Any] = {}
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    progress: Progress = Progress(done=0)
    result: dict[str, Any] | None = None
    error: str | None = None
    waiting_for: str | None = None
    shards: list[str] = []

    @property
    def is_over(self) -> bool:
        return self.status in OVER


class JobsPage(Result):
    """Some of `total` jobs."""

    jobs: list[Job]
    total: int


class Promotion(Job):
    """A promotion; what was decided is None until it is done. `items`: the questions that decided.

    `canary`: what it has seen, also while it runs.
    """

    decision: Literal["promoted", "refused", "undecided", "rolled_back"] | None = None
    reasons: list[str] | None = None
    per_metric: list[dict[str, Any]] | None = None
    guards: list[dict[str, Any]] | None = None
    items: list[dict[str, Any]] | None = None
    canary: dict[str, Any] | None = None
    activation: dict[str, Any] | None = None


class JobNews(Result):
    """An event of a job that is watched: the whole job at a change of state, progress alone between."""

    status: JobStatus
    progress: Progress
    job: Job | None = None


class JobStats(Result):
    pending: int
    running: int
    done: int
    failed: int
    cancelled: int
    jobs_last_hour: int | None = None


class Dataset(Result):
    name: str
    digest: str | None = None
    format: str | None = None


class EvalPoint(Result):
    """One eval in a dataset's history."""

    job_id: str
    model_id: str
    step: int | None = None
    series: str | None = None
    accuracy: float | None = None
    created_at: datetime | None = None


class EvalHistoryPage(Result):
    """Some of `total` evals; `left_out`: those among them whose numbers say nothing of the model, and why."""

    points: list[EvalPoint]
    left_out: list[dict[str, Any]] = []
    total: int


class FileReceipt(Result):
    name: str
    size_bytes: int
    received_bytes: int
    complete: bool
    sha256: str | None = None


class Shard(Result):
    """A finished file of training data."""

    name: str
    status: str | None = None
    job_id: str | None = None
    rows: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None


class Claim(Shard):
    """A shard that is ours until it is acknowledged, given back, or the claim runs out."""

    claim_id: str
