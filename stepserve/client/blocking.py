"""BlockingClient: every route of the server as a method that blocks.

Every method raises a StepserveError that says in one sentence what happened. What can be asked twice without harm is
asked again for `retry_s` while the server is away or restarting.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx
from tenacity import Retrying

from stepserve.client import calls, traffic
from stepserve.client.delta import ANCHOR_EVERY, DeltaPush, KeptWeights
from stepserve.client.errors import (
    Conflict,
    JobFailed,
    OtherVersion,
    StepserveError,
    Unavailable,
    Unreachable,
    WaitedTooLong,
)
from stepserve.client.events import EventReader, chat_piece, is_event_stream, news_of
from stepserve.client.file_sender import FileSender
from stepserve.client.history import history
from stepserve.client.options import PATIENCE_S, RECONNECT_PAUSE_S, RETRY_S, SILENCE_S, TIMEOUT_S, Away, Options
from stepserve.client.results import Health, Job, JobNews
from stepserve.client.weights import (
    PushedWeights,
    PushRequest,
    Source,
    WeightsBody,
    expected_weights,
)
from stepserve.client.wire import Call, as_it_is, check, content_of, health_of, retry_rules, unreachable

P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[P, T]):
    """A route as a method that blocks."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "BlockingClient", owner: type) -> Callable[P, T]: ...
    def __get__(self, client: "BlockingClient | None", owner: type) -> Self | Callable[P, T]:
        if client is None:
            return self
        there = client

        @functools.wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return there.send(self._make(*args, **kwargs))

        return method


class BlockingClient:
    """`url`: where the server is (default: INFERENCE_URL, or INFERENCE_HOST and INFERENCE_PORT, or hosts.json).

    `timeout_s`: how long the server may be silent. `retry_s`: how long to go on asking while it is away; 0: once.
    Use it as a context manager, or `close` it. Safe to share between threads.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._options = Options(url, api_key, timeout_s, retry_s)
        self._kept: KeptWeights | None = None
        try:
            self._http = httpx.Client(**self._options.arguments(), transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise StepserveError(f"{url!r} is not the address of a server: {error}.") from error

    version = Blocking(calls.version)
    info = Blocking(calls.info)
    status = Blocking(calls.status)
    diag = Blocking(calls.diag)
    config = Blocking(calls.config)
    gpu_stats = Blocking(calls.gpu_stats)
    system_stats = Blocking(calls.system_stats)
    history = Blocking(history)
    power_profile = Blocking(calls.power_profile)
    set_power_profile = Blocking(calls.set_power_profile)
    aliases = Blocking(calls.aliases)
    put_alias = Blocking(calls.put_alias)
    remove_alias = Blocking(calls.remove_alias)
    reload_config = Blocking(calls.reload_config)
    logs = Blocking(calls.logs)
    list_models = Blocking(calls.list_models)
    register_model = Blocking(calls.register_model)
    set_active_model = Blocking(calls.set_active_model)
    roll_back = Blocking(calls.roll_back)
    active_model = Blocking(calls.active_model)
    model = Blocking(calls.model)
    list_activations = Blocking(calls.list_activations)
    delete_model = Blocking(calls.delete_model)
    pull_model = Blocking(calls.pull_model)
    list_uploads = Blocking(calls.list_uploads)
    discard_upload = Blocking(calls.discard_upload)
    eval_job = Blocking(calls.eval_job)
    get_eval_job = Blocking(calls.get_eval_job)
    rescore_eval = Blocking(calls.rescore_eval)
    compare_evals = Blocking(calls.compare_evals)
    eval_history = Blocking(calls.eval_history)
    eval_history_page = Blocking(calls.eval_history_page)
    eval_samples = Blocking(calls.eval_samples)
    promote = Blocking(calls.promote)
    get_promotion = Blocking(calls.get_promotion)
    promotion_report = Blocking(calls.promotion_report)
    eval_report = Blocking(calls.eval_report)
    export_eval = Blocking(calls.export_eval)
    import_eval = Blocking(calls.import_eval)
    list_eval_tasks = Blocking(calls.list_eval_tasks)
    eval_task = Blocking(calls.eval_task)
    list_policies = Blocking(calls.list_policies)
    get_policy = Blocking(calls.get_policy)
    put_policy = Blocking(calls.put_policy)
    remove_policy = Blocking(calls.remove_policy)
    try_policy = Blocking(calls.try_policy)
    list_datasets = Blocking(calls.list_datasets)
    get_dataset = Blocking(calls.get_dataset)
    dataset_versions = Blocking(calls.dataset_versions)
    contamination = Blocking(calls.contamination)
    flaky_questions = Blocking(calls.flaky_questions)
    put_dataset = Blocking(calls.put_dataset)
    remove_dataset = Blocking(calls.remove_dataset)
    datagen_job = Blocking(calls.datagen_job)
    get_datagen_job = Blocking(calls.get_datagen_job)
    datagen_report = Blocking(calls.datagen_report)
    datagen_rejected = Blocking(calls.datagen_rejected)
    preview_pipeline = Blocking(calls.preview_pipeline)
    list_jobs = Blocking(calls.list_jobs)
    jobs_page = Blocking(calls.jobs_page)
    get_job = Blocking(calls.get_job)
    cancel_job = Blocking(calls.cancel_job)
    retry_job = Blocking(calls.retry_job)
    job_stats = Blocking(calls.job_stats)
    list_shards = Blocking(calls.list_shards)
    claim_shard = Blocking(calls.claim_shard)
    acknowledge_shard = Blocking(calls.acknowledge_shard)
    give_back_shard = Blocking(calls.give_back_shard)
    fleet = Blocking(calls.fleet)
    hold_member = Blocking(calls.hold_member)
    remove_member = Blocking(calls.remove_member)
    list_keys = Blocking(calls.list_keys)
    create_key = Blocking(calls.create_key)
    revoke_key = Blocking(calls.revoke_key)
    give_feedback = Blocking(traffic.give_feedback)
    traffic_consent = Blocking(traffic.traffic_consent)
    set_traffic_consent = Blocking(traffic.set_traffic_consent)
    list_traffic = Blocking(traffic.list_traffic)
    get_traffic = Blocking(traffic.get_traffic)
    delete_traffic = Blocking(traffic.delete_traffic)
    make_traffic_dataset = Blocking(traffic.make_traffic_dataset)
    generate = Blocking(calls.generate)
    expected_weights = Blocking(expected_weights)

    @property
    def url(self) -> str:
        return self._options.url

    def health(self) -> Health:
        """Also of a server that does not serve now: look at `status`."""
        with self._reaching():
            answer = self._http.get("/health")
        return health_of(answer)

    def get(self, path: str, params: Mapping[str, str | int | bool] | None = None) -> Any:
        """Any route's JSON."""
        return self.send(Call("GET", path, as_it_is, params=params or {}))

    def post(self, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None) -> Any:
        return self.send(Call("POST", path, as_it_is, params=params or {}, body=body, repeatable=False))

    def put(self, path: str, body: Mapping[str, Any] | None = None, content: bytes | None = None) -> Any:
        return self.send(Call("PUT", path, as_it_is, body=body, content=content))

    def delete(self, path: str, params: Mapping[str, str | int | bool] | None = None) -> Any:
        return self.send(Call("DELETE", path, as_it_is, params=params or {}))

    def send(self, call: Call[T]) -> T:
        """Asks, and again while that makes sense."""
        for attempt in Retrying(**retry_rules(repeatable=call.repeatable, retry_s=self._options.retry_s)):
            with attempt:
                with self._reaching():
                    answer = self._http.request(**call.arguments(self._options.timeout_s))
                return call.result(answer)
        raise AssertionError("tenacity raises what the last attempt raised")

    def push_weights(
        self,
        source: Source,
        *,
        model: str = "active",
        version: str | None = None,
        probe: Mapping[str, Any] | None = None,
        persist: bool = False,
        delta: bool = False,
        anchor_every: int = ANCHOR_EVERY,
        in_flight: calls.InFlight = "finish",
        timeout_s: float = 300.0,
    ) -> PushedWeights:
        """Sends the tensors of `source` into the model that serves, and returns once they do.

        `source`: a model, a mapping of names to tensors, or an iterable of both, which is read once; no second copy of
        them is made. `version`: the trainer's own name of them. `probe`: what they say of a few prompts (`probe_of`),
        which the server proves; without it only that they are finite and others than before. `persist`: they become a
        checkpoint on the server's disk too. `in_flight`, `timeout_s`: of the requests inside. Not asked twice.

        `delta`: only what changed since this client's last push with `delta` is sent, bit for bit, where the server has
        that still; all of it at first, after a push that failed, and after `anchor_every` deltas. The client keeps the
        tensors for that, in the types of the server's model: as much memory as they take there.

        Raises Invalid (tensors that are missing, misnamed, of another shape or not finite; a proof that failed), with
        the weights from before serving; Conflict while a switch or another push runs.
        """
        request, expected = PushRequest(model, version, persist, in_flight, timeout_s), self.expected_weights(model)
        if not delta:
            return self._push(request, WeightsBody.of(source, expected, probe))
        kept, self._kept = self._kept, None  # whoever else pushes meanwhile has none
        push = DeltaPush.of(source, expected, probe, kept, anchor_every)
        try:
            pushed = self._push(request, push.body)
        except Conflict as error:
            pushed = self._push(request, push.instead(error))
        self._kept = push.keeps(pushed)
        return pushed

    def _push(self, request: PushRequest, body: WeightsBody) -> PushedWeights:
        with self._reaching():
            answer = self._http.put(content=map(bytes, body.pieces), **request.arguments(body))
        return PushedWeights.model_validate(content_of(answer))

    def watch_job(self, job_id: str, patience_s: float = PATIENCE_S) -> Iterator[JobNews]:
        """The job's news until it is over, the whole job first and last. A server that goes away is waited for."""
        away = Away(patience_s)
        while True:
            try:
                for name, data in self.events(f"/jobs/{job_id}/events"):
                    news = news_of(name, data)
                    away.is_back()
                    if news is not None:
                        yield news
                        if news.job is not None and news.job.is_over:
                            return
            except (Unreachable, Unavailable) as error:
                away.check(error)
            time.sleep(RECONNECT_PAUSE_S)

    def wait_for_job(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_news: Callable[[JobNews], None] | None = None,
        progress: bool = False,
    ) -> Job:
        """The job once it is done. `progress` shows a bar on stderr.

        Raises JobFailed when it fails or is cancelled, WaitedTooLong after `timeout_s`.
        """
        if progress:
            from stepserve.client.progress import job_bar  # noqa: PLC0415 - only who wants a bar pays for rich

            with job_bar(job_id) as show:
                return self.wait_for_job(job_id, timeout_s, on_news=show)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for news in self.watch_job(job_id):
            if on_news is not None:
                on_news(news)
            if news.job is not None and news.job.is_over:
                if news.job.status != "done":
                    raise JobFailed(news.job)
                return news.job
            if deadline is not None and time.monotonic() > deadline:
                break
        raise WaitedTooLong(self.get_job(job_id), timeout_s or 0.0)

    def events(
        self, path: str, method: str = "GET", silence_s: float = SILENCE_S, **request: Any
    ) -> Iterator[tuple[str, str]]:
        """A stream of server-sent events as (name, data)."""
        timeout = httpx.Timeout(self._options.timeout_s, read=silence_s)
        with self._reaching(), self._http.stream(method, path, timeout=timeout, **request) as answer:
            if not is_event_stream(answer):
                answer.read()
                content_of(answer)
                raise OtherVersion(f"{method} {path}", "no stream of events")
            reader = EventReader()
            for piece in answer.iter_bytes():
                yield from reader.feed(piece)

    def chat(self, messages: Sequence[Mapping[str, Any]], model: str = "active", **more: Any) -> Iterator[str]:
        """The answer's text as it is generated."""
        body = {"model": model, "messages": list(messages), "stream": True, **more}
        for _, data in self.events("/v1/chat/completions", "POST", silence_s=600.0, json=body):
            if (piece := chat_piece(data)) is not None:
                yield piece

    @contextmanager
    def streaming(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """An answer whose body is not read yet, its status checked."""
        with self._reaching(), self._http.stream(method, path, **request) as answer:
            if not answer.is_success:
                answer.read()
                check(answer)
            yield answer

    def sender(self, timeout_s: float) -> FileSender:
        """For bodies that come from files; of one thread."""
        return FileSender(self._options, timeout_s)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise unreachable(error, self.url) from error
