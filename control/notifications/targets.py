"""Where a delivery goes: a URL, or a target that another package installs.

An installed target is an entry point in the group `stepserve.notification_targets` whose object is a function of the
event's content (`id`, `event`, `at`, `data`, `text`). It is called in a thread and may block; whatever it raises is a
failed delivery, which is tried again later.
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable, Collection
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

import msgspec

from control.clock import Clock, utc_now
from control.errors import Invalid
from control.notifications.outbox import Delivery
from control.notifications.webhook import key_of
from stepserve.outbound import Outbound, OutboundError

GROUP = "stepserve.notification_targets"
TIMEOUT_S = 15.0
GONE = 410

Target = Callable[[dict[str, Any]], object]


class DeliveryFailed(Exception):
    """`final`: the receiver said that it wants no more of this."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Targets:
    """`hosts`: those of webhooks that may be on the own network; others must have public addresses."""

    def __init__(self, hosts: Collection[str], clock: Clock = utc_now) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._clock = clock

    def check(self, target: str | None) -> None:
        """Raises Invalid for one that is not installed."""
        if target is None:
            return
        names = sorted(entry_points(group=GROUP).names)
        if target not in names:
            raise Invalid(f"target: {target!r} is not installed; there are {', '.join(names) or 'none'}")

    async def deliver(self, delivery: Delivery) -> None:
        """Raises DeliveryFailed."""
        if delivery.target is not None:
            await self._call(delivery.target, delivery)
        else:
            await self._post(delivery)

    async def _call(self, name: str, delivery: Delivery) -> None:
        point = next(iter(entry_points(group=GROUP, name=name)), None)
        if point is None:
            raise DeliveryFailed(f"the target {name!r} is not installed any more")
        try:
            target: Target = point.load()
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.to_thread(target, {**delivery.content, "text": delivery.text})
        except TimeoutError:
            raise DeliveryFailed(f"{point.value} did not return within {TIMEOUT_S:g} s") from None
        except Exception as error:  # another package's code
            raise DeliveryFailed(f"{point.value}: {type(error).__name__}: {error}") from error

    async def _post(self, delivery: Delivery) -> None:
        assert delivery.url is not None
        slack = delivery.form == "slack"
        body = msgspec.json.encode({"text": delivery.text} if slack else delivery.content)
        headers = {} if slack else self._signed(delivery, body)
        parts = urlsplit(delivery.url)
        named = (parts.hostname or "") in self._hosts
        base = f"{parts.scheme}://{parts.netloc}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            async with Outbound(base, headers={}, total_timeout_s=TIMEOUT_S, max_bytes=0, named=named) as outbound:
                status = await outbound.send(path, body, {"content-type": "application/json", **headers})
        except OutboundError as error:
            raise DeliveryFailed(str(error)) from error
        if not 200 <= status < 300:
            raise DeliveryFailed(f"answered {status}", final=status == GONE)

    def _signed(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        """Headers by the Standard Webhooks specification, https://www.standardwebhooks.com."""
        event_id, at = str(delivery.content["id"]), str(int(self._clock().timestamp()))
        signed = f"{event_id}.{at}.".encode() + body
        digest = hmac.new(key_of(delivery.secret), signed, hashlib.sha256).digest()
        signature = "v1," + base64.b64encode(digest).decode()
        return {"webhook-id": event_id, "webhook-timestamp": at, "webhook-signature": signature}
