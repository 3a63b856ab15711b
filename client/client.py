"""The two clients: SwitchyardClient blocks, AsyncSwitchyardClient is awaited; both have the same methods.

Every method raises a SwitchyardError that says in one sentence what happened. What can be asked twice without harm is
asked again for `retry_s` while the server is away or restarting.
"""

import asyncio
import functools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx
from tenacity import AsyncRetrying, Retrying

from client import calls
from client.address import default_key, resolve
from client.errors import JobFailed, OtherVersion, SwitchyardError, Unavailable, Unreachable, WaitedTooLong
from client.events import EventReader
from client.results import Health, Job, JobNews
from client.wire import Call, as_it_is, check, content_of, retry_rules, unreachable

if TYPE_CHECKING:
    from client.push import Pushed

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 30.0
RETRY_S = 30.0
SILENCE_S = 30.0  # the server says something at least every ten seconds while a job is watched
PATIENCE_S = 600.0
RECONNECT_PAUSE_S = 1.0
MAX_CONNECTIONS = 16


class Blocking(Generic[P, T]):
    """A route as a method that blocks."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "SwitchyardClient", owner: type) -> Callable[P, T]: ...
    def __get__(self, client: "SwitchyardClient | None", owner: type) -> Self | Callable[P, T]:
        if client is None:
            return self
        there = client

        @functools.wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return there.send(self._make(*args, **kwargs))

        return method


class Awaited(Generic[P, T]):
    """A route as a method that is awaited."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "AsyncSwitchyardClient", owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: "AsyncSwitchyardClient | None", owner: type) -> Self | Callable[P, Awaitable[T]]:
        if client is None:
            return self
        there = client

        @functools.wraps(self._make)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await there.send(self._make(*args, **kwargs))

        return method


class _Options:
    """What both clients are made with."""

    def __init__(self, url: str | None, api_key: str | None, timeout_s: float, retry_s: float) -> None:
        self.url = resolve(url)
        self.timeout_s = timeout_s
        self.retry_s = retry_s
        self._api_key = api_key or default_key()

    def arguments(self) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        return {
            "base_url": self.url,
            "headers": headers,
            "timeout": self.timeout_s,
            "limits": limits,
            "trust_env": False,
        }


class SwitchyardClient:
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
        self._options = _Options(url, api_key, timeout_s, retry_s)
        try:
            self._http = httpx.Client(**self._options.arguments(), transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise SwitchyardError(f"{url!r} is no address of a server: {error}.") from error

    version = Blocking(calls.version)
    info = Blocking(calls.info)
    status = Blocking(calls.status)
    diag = Blocking(calls.diag)
    config = Blocking(calls.config)
    gpu_stats = Blocking(calls.gpu_stats)
    system_stats = Blocking(calls.system_stats)
    power_profile = Blocking(calls.power_profile)
    set_power_profile = Blocking(calls.set_power_profile)
    logs = Blocking(calls.logs)
    list_models = Blocking(calls.list_models)
    register_model = Blocking(calls.register_model)
    set_active_model = Blocking(calls.set_active_model)
    roll_back = Blocking(calls.roll_back)
    active_model = Blocking(calls.active_model)
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
    list_datasets = Blocking(calls.list_datasets)
    put_dataset = Blocking(calls.put_dataset)
    datagen_job = Blocking(calls.datagen_job)
    get_datagen_job = Blocking(calls.get_datagen_job)
    list_jobs = Blocking(calls.list_jobs)
    get_job = Blocking(calls.get_job)
    cancel_job = Blocking(calls.cancel_job)
    retry_job = Blocking(calls.retry_job)
    job_stats = Blocking(calls.job_stats)
    list_shards = Blocking(calls.list_shards)
    claim_shard = Blocking(calls.claim_shard)
    acknowledge_shard = Blocking(calls.acknowledge_shard)
    give_back_shard = Blocking(calls.give_back_shard)
    list_keys = Blocking(calls.list_keys)
    create_key = Blocking(calls.create_key)
    revoke_key = Blocking(calls.revoke_key)
    generate = Blocking(calls.generate)

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

    def watch_job(self, job_id: str, patience_s: float = PATIENCE_S) -> Iterator[JobNews]:
        """The job's news until it is over, the whole job first and last. A server that goes away is waited for."""
        away = _Away(patience_s)
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
            from client.progress import job_bar  # noqa: PLC0415 - only who wants a bar pays for rich

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
            for line in answer.iter_lines():
                event = reader.feed(line)
                if event is not None:
                    yield event

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

    def upload(self, path: str, body: Iterable[bytes], headers: Mapping[str, str], timeout_s: float) -> Any:
        """PUTs a body of known length; not repeated, since only the caller can begin it anew."""
        timeout = httpx.Timeout(timeout_s, connect=self._options.timeout_s)
        with self._reaching():
            answer = self._http.put(path, content=body, headers=dict(headers), timeout=timeout)
        return content_of(answer)

    def push_checkpoint(self, path: "str | os.PathLike[str]", id: str, **options: Any) -> "Pushed":  # noqa: A002
        """client.push.push_checkpoint by this client."""
        from client.push import push_checkpoint  # noqa: PLC0415 - which imports this module

        return push_checkpoint(path, id, client=self, **options)

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


class AsyncSwitchyardClient:
    """SwitchyardClient for asyncio: the same arguments and methods, awaited."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._options = _Options(url, api_key, timeout_s, retry_s)
        try:
            self._http = httpx.AsyncClient(**self._options.arguments(), transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise SwitchyardError(f"{url!r} is no address of a server: {error}.") from error

    version = Awaited(calls.version)
    info = Awaited(calls.info)
    status = Awaited(calls.status)
    diag = Awaited(calls.diag)
    config = Awaited(calls.config)
    gpu_stats = Awaited(calls.gpu_stats)
    system_stats = Awaited(calls.system_stats)
    power_profile = Awaited(calls.power_profile)
    set_power_profile = Awaited(calls.set_power_profile)
    logs = Awaited(calls.logs)
    list_models = Awaited(calls.list_models)
    register_model = Awaited(calls.register_model)
    set_active_model = Awaited(calls.set_active_model)
    roll_back = Awaited(calls.roll_back)
    active_model = Awaited(calls.active_model)
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
    list_datasets = Awaited(calls.list_datasets)
    put_dataset = Awaited(calls.put_dataset)
    datagen_job = Awaited(calls.datagen_job)
    get_datagen_job = Awaited(calls.get_datagen_job)
    list_jobs = Awaited(calls.list_jobs)
    get_job = Awaited(calls.get_job)
    cancel_job = Awaited(calls.cancel_job)
    retry_job = Awaited(calls.retry_job)
    job_stats = Awaited(calls.job_stats)
    list_shards = Awaited(calls.list_shards)
    claim_shard = Awaited(calls.claim_shard)
    acknowledge_shard = Awaited(calls.acknowledge_shard)
    give_back_shard = Awaited(calls.give_back_shard)
    list_keys = Awaited(calls.list_keys)
    create_key = Awaited(calls.create_key)
    revoke_key = Awaited(calls.revoke_key)
    generate = Awaited(calls.generate)

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

    async def watch_job(self, job_id: str, patience_s: float = PATIENCE_S) -> AsyncIterator[JobNews]:
        """The job's news until it is over, the whole job first and last. A server that goes away is waited for."""
        away = _Away(patience_s)
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
            async for line in answer.aiter_lines():
                event = reader.feed(line)
                if event is not None:
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


class _Away:
    """Patience with a server that is away: raises the last error once it has been away for too long."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s: float | None = None

    def is_back(self) -> None:
        self._since_s = None

    def check(self, error: SwitchyardError) -> None:
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s
        if now_s - self._since_s >= self._patience_s:
            raise error


def health_of(answer: httpx.Response) -> Health:
    """A body that says its status is an answer, also with 503. Raises as Call.result."""
    if answer.status_code == 503:
        try:
            return Health.model_validate(answer.json())
        except ValueError:
            pass
    return Call("GET", "/health", Health.model_validate).result(answer)


def is_event_stream(answer: httpx.Response) -> bool:
    return answer.is_success and answer.headers.get("content-type", "").startswith("text/event-stream")


def news_of(name: str, data: str) -> JobNews | None:
    """None for events that say nothing of the job. Raises Unavailable when the event says that the stream broke."""
    match name:
        case "state":
            job = Job.model_validate_json(data)
            return JobNews(status=job.status, progress=job.progress, job=job)
        case "progress":
            return JobNews.model_validate_json(data)
        case "error":
            raise Unavailable(503, str(json.loads(data).get("detail", "the stream broke")), None)
        case _:
            return None


def chat_piece(data: str) -> str | None:
    """The new text of a chunk. Raises Unavailable when it says that the generation failed."""
    if data == "[DONE]":
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        raise Unavailable(503, str(chunk["error"].get("message", "the generation failed")), None)
    delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
    piece: str | None = delta.get("content")
    return piece
