"""AsyncClient: the same routes for asyncio."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx
from tenacity import AsyncRetrying

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
from stepserve.client.wire import Call, content_of, health_of, retry_rules, unreachable

P = ParamSpec("P")
T = TypeVar("T")


class Awaited(Generic[P, T]):
    """A route as a method that is awaited."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: "AsyncClient | None", owner: type) -> Self | Callable[P, Awaitable[T]]:
        if client is None:
            return self
        there = client

        @functools.wraps(self._make)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await there.send(self._make(*args, **kwargs))

        return method


class AsyncClient:
    """Client for asyncio: the same arguments and methods, awaited."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._options = Options(url, api_key, timeout_s, retry_s)
        self._kept: KeptWeights | None = None
        try:
            self._http = httpx.AsyncClient(**self._options.arguments(), transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise StepserveError(f"{url!r} is not the address of a server: {error}.") from error

    version = Awaited(calls.version)
    info = Awaited(calls.info)
    status = Awaited(calls.status)
    diag = Awaited(calls.diag)
    config = Awaited(calls.config)
    gpu_stats = Awaited(calls.gpu_stats)
    system_stats = Awaited(calls.system_stats)
    history = Awaited(history)
    power_profile = Awaited(calls.power_profile)
    set_power_profile = Awaited(calls.set_power_profile)
    aliases = Awaited(calls.aliases)
    put_alias = Awaited(calls.put_alias)
    remove_alias = Awaited(calls.remove_alias)
    reload_config = Awaited(calls.reload_config)
    logs = Awaited(calls.logs)
    list_models = Awaited(calls.list_models)
    register_model = Awaited(calls.register_model)
    set_active_model = Awaited(calls.set_active_model)
    roll_back = Awaited(calls.roll_back)
    active_model = Awaited(calls.active_model)
    model = Awaited(calls.model)
    list_activations = Awaited(calls.list_activations)
    delete_model = Awaited(calls.delete_model)
    pull_model = Awaited(calls.pull_model)
    list_uploads = Awaited(calls.list_uploads)
    discard_upload = Awaited(calls.discard_upload)
    eval_job = Awaited(calls.eval_job)
    get_eval_job = Awaited(calls.get_eval_job)
    rescore_eval = Awaited(calls.rescore_eval)
    compare_evals = Awaited(calls.compare_evals)
    eval_history = Awaited(calls.eval_history)
    eval_history_page = Awaited(calls.eval_history_page)
    eval_samples = Awaited(calls.eval_samples)
    promote = Awaited(calls.promote)
    get_promotion = Awaited(calls.get_promotion)
    promotion_report = Awaited(calls.promotion_report)
    eval_report = Awaited(calls.eval_report)
    export_eval = Awaited(calls.export_eval)
    import_eval = Awaited(calls.import_eval)
    list_eval_tasks = Awaited(calls.list_eval_tasks)
    eval_task = Awaited(calls.eval_task)
    list_policies = Awaited(calls.list_policies)
    get_policy = Awaited(calls.get_policy)
    put_policy = Awaited(calls.put_policy)
    remove_policy = Awaited(calls.remove_policy)
    try_policy = Awaited(calls.try_policy)
    list_datasets = Awaited(calls.list_datasets)
    get_dataset = Awaited(calls.get_dataset)
    dataset_versions = Awaited(calls.dataset_versions)
    contamination = Awaited(calls.contamination)
    flaky_questions = Awaited(calls.flaky_questions)
    put_dataset = Awaited(calls.put_dataset)
    remove_dataset = Awaited(calls.remove_dataset)
    datagen_job = Awaited(calls.datagen_job)
    get_datagen_job = Awaited(calls.get_datagen_job)
    datagen_report = Awaited(calls.datagen_report)
    datagen_rejected = Awaited(calls.datagen_rejected)
    preview_pipeline = Awaited(calls.preview_pipeline)
    list_jobs = Awaited(calls.list_jobs)
    jobs_page = Awaited(calls.jobs_page)
    get_job = Awaited(calls.get_job)
    cancel_job = Awaited(calls.cancel_job)
    retry_job = Awaited(calls.retry_job)
    job_stats = Awaited(calls.job_stats)
    list_shards = Awaited(calls.list_shards)
    claim_shard = Awaited(calls.claim_shard)
    acknowledge_shard = Awaited(calls.acknowledge_shard)
    give_back_shard = Awaited(calls.give_back_shard)
    fleet = Awaited(calls.fleet)
    hold_member = Awaited(calls.hold_member)
    remove_member = Awaited(calls.remove_member)
    list_keys = Awaited(calls.list_keys)
    create_key = Awaited(calls.create_key)
    revoke_key = Awaited(calls.revoke_key)
    give_feedback = Awaited(traffic.give_feedback)
    traffic_consent = Awaited(traffic.traffic_consent)
    set_traffic_consent = Awaited(traffic.set_traffic_consent)
    list_traffic = Awaited(traffic.list_traffic)
    get_traffic = Awaited(traffic.get_traffic)
    delete_traffic = Awaited(traffic.delete_traffic)
    make_traffic_dataset = Awaited(traffic.make_traffic_dataset)
    generate = Awaited(calls.generate)
    expected_weights = Awaited(expected_weights)

    @property
    def url(self) -> str:
        return self._options.url

    async def health(self) -> Health:
        """Also of a server that does not serve now: look at `status`."""
        async with self._reaching():
            answer = await self._http.get("/health")
        return health_of(answer)

    async def send(self, call: Call[T]) -> T:
        """Asks, and again while that makes sense."""
        async for attempt in AsyncRetrying(**retry_rules(repeatable=call.repeatable, retry_s=self._options.retry_s)):
            with attempt:
                async with self._reaching():
                    answer = await self._http.request(**call.arguments(self._options.timeout_s))
                return call.result(answer)
        raise AssertionError("tenacity raises what the last attempt raised")

    async def push_weights(
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
        """As BlockingClient.push_weights; the tensors are read in threads, one after the other."""
        request, expected = (
            PushRequest(model, version, persist, in_flight, timeout_s),
            await self.expected_weights(model),
        )
        if not delta:
            return await self._push(request, WeightsBody.of(source, expected, probe))
        kept, self._kept = self._kept, None  # whoever else pushes meanwhile has none
        push = DeltaPush.of(source, expected, probe, kept, anchor_every)
        try:
            pushed = await self._push(request, push.body)
        except Conflict as error:
            pushed = await self._push(request, await asyncio.to_thread(push.instead, error))
        self._kept = push.keeps(pushed)
        return pushed

    async def _push(self, request: PushRequest, body: WeightsBody) -> PushedWeights:
        async def pieces() -> AsyncIterator[bytes]:
            while (piece := await asyncio.to_thread(next, body.pieces, None)) is not None:
                yield bytes(piece)

        async with self._reaching():
            answer = await self._http.put(content=pieces(), **request.arguments(body))
        return PushedWeights.model_validate(content_of(answer))

    async def watch_job(self, job_id: str, patience_s: float = PATIENCE_S) -> AsyncIterator[JobNews]:
        """The job's news until it is over, the whole job first and last. A server that goes away is waited for."""
        away = Away(patience_s)
        while True:
            try:
                async for name, data in self.events(f"/jobs/{job_id}/events"):
                    news = news_of(name, data)
                    away.is_back()
                    if news is not None:
                        yield news
                        if news.job is not None and news.job.is_over:
                            return
            except (Unreachable, Unavailable) as error:
                away.check(error)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def wait_for_job(
        self, job_id: str, timeout_s: float | None = None, *, on_news: Callable[[JobNews], None] | None = None
    ) -> Job:
        """The job once it is done. Raises JobFailed when it fails or is cancelled, WaitedTooLong after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                async for news in self.watch_job(job_id):
                    if on_news is not None:
                        on_news(news)
                    if news.job is not None and news.job.is_over:
                        if news.job.status != "done":
                            raise JobFailed(news.job)
                        return news.job
        except TimeoutError:
            pass
        raise WaitedTooLong(await self.get_job(job_id), timeout_s or 0.0)

    async def events(
        self, path: str, method: str = "GET", silence_s: float = SILENCE_S, **request: Any
    ) -> AsyncIterator[tuple[str, str]]:
        """A stream of server-sent events as (name, data)."""
        timeout = httpx.Timeout(self._options.timeout_s, read=silence_s)
        async with self._reaching(), self._http.stream(method, path, timeout=timeout, **request) as answer:
            if not is_event_stream(answer):
                await answer.aread()
                content_of(answer)
                raise OtherVersion(f"{method} {path}", "no stream of events")
            reader = EventReader()
            async for piece in answer.aiter_bytes():
                for event in reader.feed(piece):
                    yield event

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], model: str = "active", **more: Any
    ) -> AsyncIterator[str]:
        """The answer's text as it is generated."""
        body = {"model": model, "messages": list(messages), "stream": True, **more}
        async for _, data in self.events("/v1/chat/completions", "POST", silence_s=600.0, json=body):
            if (piece := chat_piece(data)) is not None:
                yield piece

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise unreachable(error, self.url) from error
