"""What the door costs a request in CPU time, without an engine: `python -m benchmarks.door`.

The same request goes through the door in each of its settings and around it, in turns, to an app that answers at once;
the figure is the median of the rounds' differences. The key has a rate of requests, a rate of tokens and a concurrency.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from gateway.access.allowance import KeyQuotas
from gateway.access.browser import BrowserGuard
from gateway.access.deadlines import Deadlines
from gateway.access.door import AuthMiddleware
from gateway.access.keyring import Keyring
from gateway.access.proxies import TrustedProxies
from gateway.access.rates import Rates
from gateway.access.usage import UsageTotals
from gateway.http.asgi import App, Message, Receive, Scope, Send
from stepserve.access import KeyRecord, KeySet, digest_of, new_token
from stepserve.access_settings import AccessSettings, LimitSettings

_BODY = json.dumps({"model": "active", "messages": [{"role": "user", "content": "What is 17+25?"}]}).encode()
_PLENTY = 1_000_000_000


async def _answers(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-model-id", b"m")]})
    await send({"type": "http.response.body", "body": b"{}"})


def _door(folder: Path, name: str, record: KeyRecord | None) -> App:
    settings = AccessSettings(mode="keys" if record else "open")
    keyring = Keyring(settings, folder / f"{name}.json")
    keyring.put(KeySet(epoch="e", revision=1, keys=[record] if record else []))
    limits = LimitSettings()
    return AuthMiddleware(
        app=_answers,
        keyring=keyring,
        quotas=KeyQuotas(Rates(None)),
        usage=UsageTotals(),
        deadlines=Deadlines(limits),
        guard=BrowserGuard(frozenset(), frozenset({"*"})),
        proxies=TrustedProxies(()),
        max_request_bytes=1 << 20,
        body_timeout_s=limits.body_timeout_s,
    )


async def _ask(app: App, headers: list[tuple[bytes, bytes]]) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": _BODY, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"refused with {message['status']}")

    await app(
        {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": list(headers),
            "client": ("127.0.0.1", 1),
        },
        receive,
        send,
    )


async def _measure(rounds: int, requests: int) -> None:
    key_id, token = new_token()
    plain = KeyRecord(id=key_id, name="k", digest=digest_of(token), scopes=["infer"])
    limited = plain.model_copy(
        update={"requests_per_min": _PLENTY, "tokens_per_min": _PLENTY, "max_concurrent": _PLENTY}
    )
    headers = [
        (b"host", b"localhost:8765"),
        (b"user-agent", b"benchmark"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_BODY)).encode()),
        (b"authorization", f"Bearer {token}".encode()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        apps: dict[str, App] = {
            "no key demanded": _door(base, "open", None),
            "a key": _door(base, "key", plain),
            "a key with every limit": _door(base, "limited", limited),
        }
        costs: dict[str, list[float]] = {name: [] for name in apps}
        for _ in range(rounds):
            bare = await _cpu_us(_answers, headers, requests)
            for name, app in apps.items():
                costs[name].append(await _cpu_us(app, headers, requests) - bare)
    for name, found in costs.items():
        print(f"{name:24s} {median(found):7.1f} µs of CPU a request")


async def _cpu_us(app: App, headers: list[tuple[bytes, bytes]], requests: int) -> float:
    began = time.process_time()
    for _ in range(requests):
        await asyncio.create_task(_ask(app, headers))
    return 1e6 * (time.process_time() - began) / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000, help="requests a round")
    args = parser.parse_args()
    asyncio.run(_measure(args.rounds, args.requests))


if __name__ == "__main__":
    main()
