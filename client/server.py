"""The server as the command line sees it: plain HTTP, errors in one sentence."""

import ipaddress
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", "8765"
TIMEOUT_S = 30.0
SILENCE_S = 30.0  # the server says something at least every ten seconds while a job is watched
PATIENCE_S = 60.0
RECONNECT_PAUSE_S = 1.0
OVER = frozenset({"done", "failed", "cancelled"})


class ServerError(Exception):
    """One sentence for a person."""


class Unreachable(ServerError):
    pass


class Refused(ServerError):
    pass


def default_url() -> str:
    """From INFERENCE_HOST and INFERENCE_PORT, as the server reads them; an address to listen on everywhere is local."""
    host = os.environ.get("INFERENCE_HOST") or DEFAULT_HOST
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = DEFAULT_HOST
        elif address.version == 6:
            host = f"[{host}]"
    except ValueError:
        pass
    return f"http://{host}:{os.environ.get('INFERENCE_PORT') or DEFAULT_PORT}"


class Server:
    """Raises Unreachable, and Refused with the server's own words."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url if "://" in url else f"http://{url}"
        try:
            self._client = httpx.Client(base_url=self._url, timeout=TIMEOUT_S, transport=transport, trust_env=False)
        except httpx.InvalidURL as error:
            raise Refused(f"{url!r} is no address of a server: {error}.") from error

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        return self._ask("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=body)

    def watch(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job's news until it is over: dicts with at least `status` and `progress`, the last one the whole job.

        A server that goes away is waited for PATIENCE_S.
        """
        lost_s: float | None = None
        while True:
            try:
                for news in self._events(f"/jobs/{job_id}/events"):
                    lost_s = None
                    yield news
                    if news["status"] in OVER:
                        return
            except Unreachable:
                lost_s = lost_s or time.monotonic()
                if time.monotonic() - lost_s > PATIENCE_S:
                    raise
            time.sleep(RECONNECT_PAUSE_S)

    def close(self) -> None:
        self._client.close()

    def _events(self, path: str) -> Iterator[dict[str, Any]]:
        with (
            self._reaching(),
            self._client.stream("GET", path, timeout=httpx.Timeout(TIMEOUT_S, read=SILENCE_S)) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                self._check(answer)
            name = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data" and name in {"state", "progress"}:
                    yield json.loads(value)

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        with self._reaching():
            answer = self._client.request(method, path, **request)
        self._check(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise Refused(f"{self._url} answers, but is no Switchyard server.") from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"{answer.status_code} {answer.reason_phrase}"
        detail = f"{detail.rstrip('.')}."
        if answer.status_code in {502, 503, 504}:
            raise Unreachable(f"The server cannot answer now: {detail}")
        raise Refused(f"Refused: {detail}")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"No server can be reached at {self._url} ({reason}).") from error
