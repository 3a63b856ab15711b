"""Where a delivery goes: a URL, a target that another package installs, or an experiment tracker.

An installed target is an entry point in the group `stepserve.notification_targets` whose object is a function of the
event's content (`id`, `event`, `at`, `data`, `text`). It is called in a thread and may block; whatever it raises is a
failed delivery, which is tried again later.
"""

import asyncio
import base64
import hashlib
import hmac
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from control.clock import Clock, utc_now
from control.errors import Invalid
from control.notifications.outbox import Delivery
from control.notifications.trackers import known as trackers
from control.notifications.trackers.entry import entry_of
from control.notifications.webhook import WebhookRequest, key_of
from stepserve.killable import KillableProcess
from stepserve.outbound import Outbound, OutboundError

GROUP = "stepserve.notification_targets"
TIMEOUT_S = 15.0
TRACKER_TIMEOUT_S = 120.0  # some of their libraries take many seconds to be imported
_TRACKER_PROGRAM = (sys.executable, "-m", "control.notifications.trackers.program")
GONE = 410

Target = Callable[[dict[str, Any]], object]


class DeliveryFailed(Exception):
    """`final`: the receiver said that it wants no more of this."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Targets:
    """`hosts`: those of webhooks that may be on the own network; others must have public addresses. `trackers_dir`: for
    the files of trackers, a folder for each.
    """

    def __init__(self, hosts: Collection[str], trackers_dir: Path, clock: Clock = utc_now) -> None:
        self._trackers_dir = trackers_dir
        self._hosts = {host.lower() for host in hosts}
        self._clock = clock

    def check(self, wanted: WebhookRequest) -> None:
        """Raises Invalid for one that is not installed, or lacks an option."""
        if wanted.tracker is not None:
            try:
                trackers.check(wanted.tracker, wanted.options)
            except trackers.BadTracker as error:
                raise Invalid(str(error)) from error
        if wanted.target is None:
            return
        names = sorted(entry_points(group=GROUP).names)
        if wanted.target not in names:
            raise Invalid(f"target: {wanted.target!r} is not installed; there are {', '.join(names) or 'none'}")

    async def deliver(self, delivery: Delivery) -> None:
        """Raises DeliveryFailed."""
        if delivery.tracker is not None:
            await self._track(delivery.tracker, delivery)
        elif delivery.target is not None:
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

    async def _track(self, name: str, delivery: Delivery) -> None:
        """In a process of its own, which is killed at its time limit."""
        entry = entry_of(delivery.content, delivery.options.get("run", trackers.DEFAULT_RUN))
        if entry is None:
            return  # a job of another kind
        folder = self._trackers_dir / delivery.webhook
        asked = {"tracker": name, "options": delivery.options, "folder": str(folder), "hosts": sorted(self._hosts)}
        try:
            process = await KillableProcess.start(_TRACKER_PROGRAM)
            try:
                answer = await process.ask({**asked, "entry": asdict(entry)}, TRACKER_TIMEOUT_S)
            finally:
                await process.end()
        except TimeoutError:
            raise DeliveryFailed(f"{name} did not log it within {TRACKER_TIMEOUT_S:g} s") from None
        except (OSError, EOFError) as error:
            raise DeliveryFailed(f"the process of {name} died: {error}") from error
        if answer["error"] is not None:
            raise DeliveryFailed(f"{name}: {answer['error']}")

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
