"""Every route of the server as a function that says what to ask and how to read the answer; nothing is sent here.

client.blocking and client.async_client give each of them to a client, so an argument has one place and one meaning.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

from stepserve.client.results import (
    Activation,
    ActiveModel,
    Claim,
    Dataset,
    EvalHistoryPage,
    EvalPoint,
    FileReceipt,
    Gpu,
    Health,
    Info,
    Job,
    JobsPage,
    JobStats,
    LogTail,
    MadeJob,
    Model,
    PastActivation,
    Power,
    Promotion,
    Registration,
    Shard,
    System,
    Version,
)
from stepserve.client.wire import Call, as_it_is
from stepserve.fleet import RolloutPolicy, Wave

Json = dict[str, Any]
InFlight = Literal["finish", "keep", "abort"]
Verdict = Literal["failed", "wrong", "right"]
ReportFormat = Literal["html", "markdown"]
ExportFormat = Literal["inspect", "lm_eval", "lm_eval_samples"]
Method = Literal["auto", "in_place", "blue_green", "restart"]

_SWITCH_MARGIN_S = 120.0  # a switch may wait for its reference and for the engine beside what `timeout_s` bounds
_CONTAMINATION_TIMEOUT_S = 3600.0
_REGISTER_TIMEOUT_S = 1800.0  # every byte of a checkpoint is read once


def health() -> Call[Health]:
    """An answer of 503 with a health body counts as an answer where the client says so: see `is_healthy`."""
    return Call("GET", "/health", Health.model_validate)


def version() -> Call[Version]:
    return Call("GET", "/version", Version.model_validate)


def info() -> Call[Info]:
    return Call("GET", "/info", Info.model_validate)


def status() -> Call[Json]:
    """Engines, what is loaded, failed loads and their cool-down."""
    return Call("GET", "/status", as_it_is)


def diag() -> Call[Json]:
    return Call("GET", "/diag", as_it_is)


def config() -> Call[Json]:
    """The server's effective settings, secrets redacted."""
    return Call("GET", "/config", as_it_is)


def gpu_stats() -> Call[Gpu]:
    """Raises Unavailable where there is no GPU."""
    return Call("GET", "/gpu", Gpu.model_validate)


def system_stats() -> Call[System]:
    return Call("GET", "/system", System.model_validate)


def power_profile() -> Call[Power]:
    return Call("GET", "/settings/power_profile", Power.model_validate)


def set_power_profile(profile: str) -> Call[Power]:
    return Call("POST", "/settings/power_profile", Power.model_validate, params={"profile": profile})


def logs(component: str, lines: int = 100) -> Call[LogTail]:
    """The last lines of api_server, gpu_worker or jobs."""
    return Call("GET", f"/logs/{_part(component)}", LogTail.model_validate, params={"lines": lines})


def aliases() -> Call[list[Json]]:
    """Every alias with its model, its preset and its source: `settings` or `aliases`."""
    return Call("GET", "/aliases", lambda body: list(body["aliases"]))


def put_alias(name: str, model: str = "active", **preset: Any) -> Call[Json]:
    """`preset`: `temperature`, `max_tokens` … Raises Conflict for one of the settings."""
    return Call("PUT", f"/aliases/{quote(name)}", as_it_is, body={"model": model, **preset})


def remove_alias(name: str) -> Call[Json]:
    """Raises NotFound, and Conflict for one of the settings."""
    return Call("DELETE", f"/aliases/{quote(name)}", as_it_is)


def reload_config() -> Call[Json]:
    """`changed` holds now, `needs_restart` does not."""
    return Call("POST", "/config/reload", as_it_is)


def list_models() -> Call[list[Model]]:
    """Newest first."""
    return Call("GET", "/models", lambda body: [Model.model_validate(model) for model in body["models"]])


def model(model_id: str) -> Call[Model]:
    """Raises NotFound."""
    return Call("GET", f"/models/{quote(model_id, safe='')}", Model.model_validate)


def register_model(
    id: str,
    source: str = "client",
    tags: str | Sequence[str] = (),
    *,
    path: str | None = None,
    step: int | None = None,
    probe: Mapping[str, Any] | None = None,
    activate: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    base_model: str | None = None,
    chat_template: str | None = None,
    **more: Any,
) -> Call[Registration]:
    """Makes files that lie under models/ on the server, or were uploaded, a model. The same content again is no error.

    `replace`: other content may take the place of what has this id. `dry_run`: only say what it would come to, and
    which files it would remove. `base_model`: of an adapter, what it adapts. `chat_template`: for a checkpoint that
    has none, a name (`chatml`, `plain`, `alpaca`, a file in the server's templates/) or Jinja text. `more` goes to
    the server as it is (`quantize`, `engine` …).
    """
    body = {
        "id": id,
        "source": source,
        "tags": tags if isinstance(tags, str) else list(tags),
        **_given(path=path, step=step, probe=probe, activate=activate or None, replace=replace or None),
        **_given(dry_run=dry_run or None, base_model=base_model, chat_template=chat_template, **more),
    }
    return Call("POST", "/models/register", Registration.model_validate, body=body, timeout_s=_REGISTER_TIMEOUT_S)


def set_active_model(
    id: str,
    *,
    in_flight: InFlight | None = None,
    timeout_s: float | None = None,
    method: Method | None = None,
    wave: Wave | None = None,
    policy: RolloutPolicy | None = None,
) -> Call[Activation]:
    """Switches. Raises Failed or Invalid when the candidate does not come up; the old model then goes on serving.

    On a fleet: `wave`: how many gateways switch at once; `policy`: whether one that fails takes all back.
    """
    body = {"id": id, **_given(in_flight=in_flight, timeout_s=timeout_s, method=method)}
    params = _given(wave=wave, policy=policy)
    silence_s = (timeout_s or 300.0) + _SWITCH_MARGIN_S
    return Call("POST", "/models/set_active", Activation.model_validate, params=params, body=body, timeout_s=silence_s)


def roll_back() -> Call[Activation]:
    """To the model that was active before."""
    silence_s = 300.0 + _SWITCH_MARGIN_S
    return Call("POST", "/models/rollback", Activation.model_validate, repeatable=False, timeout_s=silence_s)


def active_model() -> Call[ActiveModel]:
    """Raises NotFound when none is."""
    return Call("GET", "/models/active", ActiveModel.model_validate)


def list_activations(limit: int = 100) -> Call[list[PastActivation]]:
    return Call(
        "GET",
        "/models/activations",
        lambda body: [PastActivation.model_validate(row) for row in body["activations"]],
        params={"limit": limit},
    )


def delete_model(id: str, *, files: bool = False, dry_run: bool = False) -> Call[Json]:
    """`files`: also what the server put into its folder under models/; `removal` in the answer says what that was.

    `dry_run`: only say so.
    """
    params = _given(files="true" if files else None, dry_run="true" if dry_run else None)
    return Call("DELETE", f"/models/{_part(id)}", as_it_is, params=params)


def pull_model(
    model: str, *, chat_template: str | None = None, idempotency_key: str | None = None, **more: Any
) -> Call[MadeJob]:
    """Has the server download a model from its hub. `chat_template`: as in `register_model`. `more`: `quantize` …"""
    return _job("/pull", {"model": model, **_given(chat_template=chat_template), **more}, idempotency_key)


def list_uploads(id: str) -> Call[list[FileReceipt]]:
    """What the server has of an upload that is no model yet. Raises NotFound when there is none."""
    return Call(
        "GET",
        f"/models/{_part(id)}/files",
        lambda body: [FileReceipt.model_validate(file) for file in body["files"]],
    )


def discard_upload(id: str) -> Call[Json]:
    return Call("DELETE", f"/models/{_part(id)}/files", as_it_is)


def eval_job(
    model_id: str,
    name: str,
    dataset_ref: str,
    metrics: Sequence[str] = ("accuracy",),
    max_samples: int = 1000,
    *,
    idempotency_key: str | None = None,
    **more: Any,
) -> Call[MadeJob]:
    """`more` goes to the server as it is (`max_tokens`, `priority`, `dedupe`, `when_inactive`, `num_fewshot` …)."""
    body = {
        "model_id": model_id,
        "name": name,
        "dataset_ref": dataset_ref,
        "metrics": list(metrics),
        "max_samples": max_samples,
        **more,
    }
    return _job("/eval/jobs", body, idempotency_key)


def get_eval_job(job_id: str) -> Call[Job]:
    return Call("GET", f"/eval/jobs/{_part(job_id)}", Job.model_validate)


def rescore_eval(job_id: str, metrics: Sequence[str], **more: Any) -> Call[Json]:
    """Other metrics of answers that are there already; no GPU is used."""
    return Call("POST", f"/eval/jobs/{_part(job_id)}/rescore", as_it_is, body={"metrics": list(metrics), **more})


def compare_evals(a: str, b: str, metric: str | None = None) -> Call[Json]:
    """Two eval jobs sample by sample: fixed, broken, and whether it can be chance."""
    return Call("GET", "/eval/compare", as_it_is, params={"a": a, "b": b, **_given(metric=metric)})


def eval_samples(
    job_id: str,
    verdict: Verdict | None = None,
    text: str = "",
    ids: Sequence[str] = (),
    *,
    offset: int = 0,
    limit: int = 50,
    **more: str | float | None,
) -> Call[Json]:
    """Questions and answers of an eval that is done, wrong ones first. `more`: `finish_reason`, `min_tokens`,
    `max_tokens`, `metric`, `min_score`, `max_score`, and `changed_from`: an eval where their verdict was another one.
    """
    query = [("id", one) for one in ids]
    more = _given(verdict=verdict, text=text or None, offset=offset, limit=limit, **more)
    path = f"/eval/jobs/{_part(job_id)}/samples?{urlencode([*query, *more.items()])}"
    return Call("GET", path, as_it_is)


def eval_history(dataset: str | None = None, limit: int = 1000) -> Call[list[EvalPoint]]:
    """Results by step; points of one `series` can be compared."""
    return Call(
        "GET",
        "/eval/history",
        lambda body: [EvalPoint.model_validate(point) for point in body["points"]],
        params=_given(dataset=dataset, limit=limit),
    )


def eval_history_page(dataset: str | None = None, *, offset: int = 0, limit: int = 1000) -> Call[EvalHistoryPage]:
    """The `limit` newest of all `total` evals that are done, after the first `offset`."""
    params = _given(dataset=dataset, offset=offset, limit=limit)
    return Call("GET", "/eval/history", EvalHistoryPage.model_validate, params=params)


def promote(
    candidate: str,
    suite: Sequence[Mapping[str, Any]],
    *,
    idempotency_key: str | None = None,
    **more: Any,
) -> Call[MadeJob]:
    """Whether a candidate may take the place of a baseline. `suite`: objects with `dataset_ref`, `metric` and an eval's
    options. `more` goes to the server as it is (`baseline`, `rule`, `guards`, `on_pass`, `sequential` …).
    """
    body = {"candidate": candidate, "suite": [dict(item) for item in suite], **more}
    return _job("/promotions", body, idempotency_key)


def get_promotion(job_id: str) -> Call[Promotion]:
    """With its decision once it is done."""
    return Call("GET", f"/promotions/{_part(job_id)}", Promotion.model_validate)


def promotion_report(job_id: str, form: ReportFormat = "html") -> Call[str]:
    """A promotion that is decided as one file for people: an HTML page with its charts inside, or Markdown."""
    return Call("GET", f"/promotions/{_part(job_id)}/report", str, params={"format": form}, is_text=True)


def eval_report(job_id: str, form: ReportFormat = "html") -> Call[str]:
    """An eval that is done as one file for people: an HTML page with its charts inside, or Markdown."""
    return Call("GET", f"/eval/jobs/{_part(job_id)}/report", str, params={"format": form}, is_text=True)


def export_eval(job_id: str, form: ExportFormat = "inspect") -> Call[str]:
    """An eval that is done as inspect-ai's log (JSON), or lm-eval's results (JSON) or samples (JSON lines)."""
    return Call("GET", f"/eval/jobs/{_part(job_id)}/export", str, params={"format": form}, is_text=True)


def import_eval(
    log: bytes, model_id: str, form: Literal["inspect", "lm_eval"], name: str = "imported", metric: str | None = None
) -> Call[MadeJob]:
    """An inspect-ai log in JSON, or lm-eval's samples file, as an eval of that model that is done."""
    params = _given(model_id=model_id, format=form, name=name, metric=metric)
    return Call("POST", "/eval/imports", MadeJob.model_validate, params=params, content=log, repeatable=False)


def list_eval_tasks() -> Call[Json]:
    """The task files of lm-eval and inspect-ai that the server's owner has put there, and what is installed."""
    return Call("GET", "/eval/tasks", as_it_is)


def eval_task(
    model_id: str, name: str, task: Mapping[str, Any], *, idempotency_key: str | None = None, **more: Any
) -> Call[MadeJob]:
    """An eval job that runs a task file. `task`: `file`, and perhaps `name`, `args`, `metric`, `chat`. `more` goes to
    the server as it is (`max_samples`, `num_fewshot`, `seed`, `max_tokens`, `temperature`, `priority` …).
    """
    return _job("/eval/tasks", {"model_id": model_id, "name": name, "task": dict(task), **more}, idempotency_key)


def list_policies() -> Call[list[Json]]:
    """What is made by itself of models that are registered."""
    return Call("GET", "/policies", lambda body: list(body["policies"]))


def get_policy(name: str) -> Call[Json]:
    """With its last `runs`: the jobs that it made, or why not."""
    return Call("GET", f"/policies/{_part(name)}", as_it_is)


def put_policy(name: str, policy: Mapping[str, Any]) -> Call[Json]:
    """`policy`: an object with `match`, `evals`, `promotion`, `data_gen`."""
    return Call("PUT", f"/policies/{_part(name)}", as_it_is, body=policy)


def remove_policy(name: str) -> Call[Json]:
    """Jobs that it made stay."""
    return Call("DELETE", f"/policies/{_part(name)}", as_it_is)


def try_policy(name: str, model_id: str) -> Call[Json]:
    """Which jobs the policy would make of a registered model."""
    return Call("POST", f"/policies/{_part(name)}/dry_run", as_it_is, body={"id": model_id})


def list_datasets() -> Call[list[Dataset]]:
    return Call("GET", "/datasets", lambda body: [Dataset.model_validate(one) for one in body["datasets"]])


def dataset_versions(name: str) -> Call[Json]:
    """The contents that a dataset has had, newest first, with rows added, removed and changed."""
    return Call("GET", f"/datasets/{quote(name)}/versions", as_it_is)


def contamination(name: str, against: Sequence[str] = (), *, shards: bool = True) -> Call[Json]:
    """How much of a dataset is in published shards and in the datasets in `against`; as long as reading them takes."""
    asked = urlencode([("shards", str(shards).lower()), *(("against", one) for one in against)])
    path = f"/datasets/{quote(name)}/contamination?{asked}"
    return Call("GET", path, as_it_is, timeout_s=_CONTAMINATION_TIMEOUT_S)


def flaky_questions(job_id: str) -> Call[Json]:
    """The questions of an eval whose answers differ between identical runs of the same weights."""
    return Call("GET", f"/eval/jobs/{_part(job_id)}/flaky", as_it_is)


def get_dataset(name: str) -> Call[Dataset]:
    return Call("GET", f"/datasets/{quote(name)}", Dataset.model_validate)


def put_dataset(name: str, content: bytes, *, replace: bool = False) -> Call[Dataset]:
    """Stores the JSONL, gzipped or not, under datasets/. Raises Conflict when the name has other content."""
    params = {"digest": hashlib.sha256(content).hexdigest(), **_given(replace="true" if replace else None)}
    headers = {"content-type": "application/octet-stream"}
    route = f"/datasets/{quote(name)}"
    return Call("PUT", route, Dataset.model_validate, params=params, content=content, headers=headers, timeout_s=600.0)


def remove_dataset(name: str) -> Call[Json]:
    """Deletes the file. Raises Conflict while a job that is not over uses it."""
    return Call("DELETE", f"/datasets/{quote(name)}", as_it_is)


def datagen_job(
    model_id: str,
    strategy: str,
    config: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    **more: Any,
) -> Call[MadeJob]:
    body = {"model_id": model_id, "strategy": strategy, "config": dict(config), **more}
    return _job("/data_gen/jobs", body, idempotency_key)


def get_datagen_job(job_id: str) -> Call[Job]:
    return Call("GET", f"/data_gen/jobs/{_part(job_id)}", _read_datagen)


def datagen_report(job_id: str) -> Call[Json]:
    """Duplicates, contamination, diversity, verifiers and cost of a job's examples, and the same of each shard."""
    return Call("GET", f"/data_gen/jobs/{_part(job_id)}/report", as_it_is)


def datagen_rejected(job_id: str, reason: str | None = None, after: str | None = None, limit: int = 100) -> Call[Json]:
    """A page of what did not become an example, and why. `after`: the `next` of the page before."""
    params = _given(reason=reason, after=after, limit=limit)
    return Call("GET", f"/data_gen/jobs/{_part(job_id)}/rejected", as_it_is, params=params)


def preview_pipeline(model_id: str, config: Mapping[str, Any], rows: int = 10) -> Call[Json]:
    """The first rows of a data generation job with the strategy `pipeline`, with every column's value; makes none."""
    body = {"model_id": model_id, "config": dict(config), "rows": rows}
    return Call("POST", "/data_gen/pipelines/preview", as_it_is, body=body, timeout_s=900.0)


def list_jobs(type: str | None = None, status: str | None = None, limit: int = 100) -> Call[list[Job]]:
    """Newest first."""
    params = _given(type=type, status=status, limit=limit)
    return Call("GET", "/jobs", lambda body: [Job.model_validate(job) for job in body["jobs"]], params=params)


def jobs_page(
    type: str | None = None, status: str | None = None, text: str = "", *, offset: int = 0, limit: int = 100
) -> Call[JobsPage]:
    """Newest first, after the first `offset`. `text`: in a job's id, or in that of its model."""
    params = _given(type=type, status=status, text=text or None, offset=offset, limit=limit)
    return Call("GET", "/jobs", JobsPage.model_validate, params=params)


def get_job(job_id: str) -> Call[Job]:
    return Call("GET", f"/jobs/{_part(job_id)}", Job.model_validate)


def cancel_job(job_id: str) -> Call[MadeJob]:
    """What it has done is kept. Raises Conflict when it is over."""
    return Call("POST", f"/jobs/{_part(job_id)}/cancel", MadeJob.model_validate, repeatable=False)


def retry_job(job_id: str) -> Call[MadeJob]:
    return Call("POST", f"/jobs/{_part(job_id)}/retry", MadeJob.model_validate, repeatable=False)


def job_stats() -> Call[JobStats]:
    return Call("GET", "/jobs/stats", JobStats.model_validate)


def list_shards(status: str | None = None, job_id: str | None = None, limit: int = 1000) -> Call[list[Shard]]:
    """Finished shards of training data, oldest first."""
    params = _given(status=status, job_id=job_id, limit=limit)
    return Call("GET", "/shards", lambda body: [Shard.model_validate(one) for one in body["shards"]], params=params)


def claim_shard(
    claimed_by: str = "trainer", timeout_s: float = 3600.0, job_id: str | None = None
) -> Call[Claim | None]:
    """The oldest shard that nobody has, ours for `timeout_s`; None: there is none now."""
    body = {"claimed_by": claimed_by, "timeout_s": timeout_s, **_given(job_id=job_id)}
    return Call("POST", "/shards/claim", _read_claim, body=body, repeatable=False)


def acknowledge_shard(name: str, claim_id: str) -> Call[Shard]:
    """It is used and will not be given to anybody again. Raises Conflict when the claim ran out."""
    return Call("POST", f"/shards/{_part(name)}/ack", Shard.model_validate, body={"claim_id": claim_id})


def give_back_shard(name: str, claim_id: str, reason: str | None = None) -> Call[Shard]:
    body = {"claim_id": claim_id, **_given(reason=reason)}
    return Call("POST", f"/shards/{_part(name)}/nack", Shard.model_validate, body=body)


def fleet() -> Call[Json]:
    """Every gateway of the control plane (`gateways`), what is `committed`, and the last `rollout`."""
    return Call("GET", "/fleet", as_it_is)


def hold_member(member_id: str, action: str) -> Call[Json]:
    """`action`: `drain` or `cordon` keeps a gateway out of requests and switches, `uncordon` lets it in again."""
    return Call("POST", f"/fleet/{_part(member_id)}/{action}", as_it_is)


def remove_member(member_id: str) -> Call[Json]:
    """Forgets a lost gateway. Raises Conflict for one that is alive."""
    return Call("DELETE", f"/fleet/{_part(member_id)}", as_it_is)


def list_keys() -> Call[list[Json]]:
    return Call("GET", "/keys", lambda body: list(body["keys"]))


def create_key(**fields: Any) -> Call[Json]:
    """The key itself is in this answer and never again."""
    return Call("POST", "/keys", as_it_is, body=fields, repeatable=False)


def revoke_key(key_id: str) -> Call[Json]:
    return Call("DELETE", f"/keys/{_part(key_id)}", as_it_is)


def generate(prompt: str, **more: Any) -> Call[Json]:
    """POST /generate; `more`: `model_id`, `max_tokens`, `temperature`, `raw` …"""
    return Call("POST", "/generate", as_it_is, body={"prompt": prompt, **more}, repeatable=False, timeout_s=600.0)


def _job(path: str, body: Mapping[str, Any], idempotency_key: str | None) -> Call[MadeJob]:
    """With a key of its own where none is given, so that asking again after a lost answer makes no second job."""
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    return Call("POST", path, MadeJob.model_validate, body=body, headers=headers)


def _read_datagen(body: Any) -> Job:
    return Job.model_validate({"id": body.get("job_id"), "type": "data_gen", **body})


def _read_claim(body: Any) -> Claim | None:
    return None if body["shard"] is None else Claim.model_validate(body["shard"])


def _part(text: str) -> str:
    """One segment of a path, whatever is in it."""
    return quote(text, safe="")


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
