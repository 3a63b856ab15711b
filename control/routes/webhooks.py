"""/webhooks: who is told of ended jobs and switches, dead engines, and accuracy that fell."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from control.clock import iso, utc_now
from control.database.tables import DeliveryRow, WebhookRow
from control.errors import Conflict
from control.notifications.events import KNOWN, Event
from control.notifications.notifier import Notifier
from control.notifications.outbox import Outbox, State
from control.notifications.targets import Targets
from control.notifications.webhook import WebhookRequest
from control.services import Given

router = APIRouter()

MOST = 100
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


@router.get("/webhooks")
async def list_webhooks(outbox: Given[Outbox]) -> dict[str, Any]:
    return {"webhooks": [_show(row) for row in await outbox.webhooks()], "events": list(KNOWN)}


@router.get("/webhooks/deliveries")
async def deliveries(
    outbox: Given[Outbox],
    state: State | None = None,
    webhook: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    return {"deliveries": [_show_delivery(row) for row in await outbox.deliveries(state, webhook, limit)]}


@router.post("/webhooks/deliveries/{delivery_id}/retry")
async def retry(delivery_id: int, outbox: Given[Outbox], notifier: Given[Notifier]) -> dict[str, Any]:
    row = await outbox.try_again(delivery_id)
    notifier.poke()
    return _show_delivery(row)


@router.put("/webhooks/{name}")
async def put(
    name: Name, request: WebhookRequest, response: Response, outbox: Given[Outbox], targets: Given[Targets]
) -> dict[str, Any]:
    """A new webhook's secret is in this answer and in no other."""
    targets.check(request)
    if name not in (names := [row.name for row in await outbox.webhooks()]) and len(names) >= MOST:
        raise Conflict(f"there are {MOST} webhooks already")
    row, new = await outbox.put(name, request)
    response.status_code = 201 if new else 200
    response.headers["Cache-Control"] = "no-store"
    return _show(row) | ({"secret": row.secret} if new else {})


@router.post("/webhooks/{name}/test", status_code=202)
async def test(name: Name, outbox: Given[Outbox], notifier: Given[Notifier]) -> dict[str, Any]:
    """Sends the event `test`; the delivery says how it went."""
    delivery_id = await outbox.tell(name, Event(f"test.{uuid.uuid4().hex}", "test", utc_now(), {}))
    notifier.poke()
    return {"status": "accepted", "delivery_id": delivery_id}


@router.delete("/webhooks/{name}")
async def remove(name: Name, outbox: Given[Outbox]) -> dict[str, Any]:
    await outbox.remove(name)
    return {"status": "deleted", "name": name}


def _show(row: WebhookRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "url": row.url,
        "target": row.target,
        "tracker": row.tracker,
        "options": row.options or {},
        "events": row.events,
        "form": row.form,
        "created_at": iso(row.created_at),
    }


def _show_delivery(row: DeliveryRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "webhook": row.webhook,
        "event": row.event,
        "event_id": row.event_id,
        "content": row.content,
        "text": row.text,
        "state": row.state,
        "attempts": row.attempts,
        "error": row.error,
        "created_at": iso(row.created_at),
        "delivered_at": iso(row.delivered_at),
        "next_at": iso(row.next_at) if row.state == "pending" else None,
    }
