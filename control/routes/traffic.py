"""/traffic: what is kept of requests and answers, who consented, and datasets of what people said of the answers."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from control.access.dataset_owners import DatasetOwners
from control.access.key_book import KeyBook
from control.access.principal import Principal
from control.access.view import View
from control.clock import iso
from control.database.traffic_tables import TrafficRow
from control.errors import Forbidden, Invalid
from control.routes.datasets import put_owned
from control.services import Given
from control.traffic.consents import Consents
from control.traffic.store import TrafficStore, Wanted
from stepserve.access import ANONYMOUS
from stepserve.jobs.datagen_ports import FeedbackKind, FeedbackRows, RatedAnswer
from stepserve.jobs.eval_ports import DatasetStore
from stepserve.paths import Layout
from stepserve.request_model import RequestModel
from stepserve.traffic import CONTROL_FEEDBACK_PATH, CONTROL_TRAFFIC_PATH, FeedbackOrder, KeepTraffic, TrafficSettings

router = APIRouter()

KeyId = Annotated[str | None, Query(min_length=1, max_length=100)]

_NOTHING = {
    "eval": "no answer has a correction",
    "dpo": "no answer has a correction, and no prompt has both a good and a bad answer",
    "kto": "no answer has feedback",
}


class ConsentRequest(RequestModel):
    """`key_id`: whose traffic, where an administrator says it; else it is that of the key that asks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: bool
    key_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class TrafficDataset(RequestModel):
    """A dataset of rated answers. `prompts`: conversations, or texts that were to be continued (/v1/completions).

    `model`, `key_id`: of these alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    kind: FeedbackKind
    prompts: Literal["chat", "text"] = "chat"
    model: Annotated[str, Field(min_length=1)] | None = None
    key_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    replace: bool = False


@router.get("/traffic/consent")
async def get_consent(
    http: Request, consents: Given[Consents], store: Given[TrafficStore], settings: Given[TrafficSettings],
    key_id: KeyId = None,
) -> dict[str, Any]:  # fmt: skip
    """Whether a key's traffic may be kept, who said so and when, and what is kept of it."""
    return await _consent(_own(http, key_id), consents, store, settings)


@router.put("/traffic/consent")
async def put_consent(
    asked: ConsentRequest, http: Request, keys: Given[KeyBook], consents: Given[Consents], store: Given[TrafficStore],
    settings: Given[TrafficSettings],
) -> dict[str, Any]:  # fmt: skip
    """From now on; what is kept already stays until it is deleted."""
    key_id = _own(http, asked.key_id)
    if key_id == ANONYMOUS:
        raise Invalid("key_id: of requests without a key the settings say whether they are kept: traffic.without_keys")
    await keys.consent(key_id, keep=asked.keep, by=Principal.of(http.scope["headers"]).actor)
    return await _consent(key_id, consents, store, settings)


@router.get("/traffic/requests")
async def list_requests(
    http: Request, store: Given[TrafficStore], key_id: KeyId = None, model: str | None = None,
    rated: bool | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Newest first; an administrator sees those of all keys."""
    rows = await store.page(Wanted(_whose(http, key_id), model, rated), limit, after)
    return {"requests": [_show(row) for row in rows], "next": rows[-1].request_id if len(rows) == limit else None}


@router.delete("/traffic/requests")
async def delete_requests(http: Request, store: Given[TrafficStore], key_id: KeyId = None) -> dict[str, Any]:
    """All of a key: of the one that asks unless an administrator names another."""
    owner = _own(http, key_id)
    return {"key_id": owner, "deleted": await store.remove_all(owner)}


@router.get("/traffic/requests/{request_id:path}")
async def get_request(
    request_id: str, http: Request, store: Given[TrafficStore], key_id: KeyId = None
) -> dict[str, Any]:
    return _show(await store.get(_whose(http, key_id), request_id, Principal.of(http.scope["headers"]).actor))


@router.delete("/traffic/requests/{request_id:path}")
async def delete_request(
    request_id: str, http: Request, store: Given[TrafficStore], key_id: KeyId = None
) -> dict[str, Any]:
    row = await store.remove(_whose(http, key_id), request_id, Principal.of(http.scope["headers"]).actor)
    return {"key_id": row.owner, "deleted": 1}


@router.post(CONTROL_TRAFFIC_PATH, include_in_schema=False)
async def keep(asked: KeepTraffic, store: Given[TrafficStore]) -> None:
    await store.keep(asked.exchanges)


@router.post(CONTROL_FEEDBACK_PATH, include_in_schema=False)
async def rate(asked: FeedbackOrder, http: Request, store: Given[TrafficStore]) -> dict[str, Any]:
    row = await store.rate(asked, Principal.of(http.scope["headers"]))
    return {"request_id": row.request_id, "key_id": row.owner, **_feedback(row)}


def datasets_router(datasets: DatasetStore, feedback: FeedbackRows) -> APIRouter:
    made = APIRouter()

    @made.post("/traffic/datasets", status_code=201)
    async def make_dataset(
        asked: TrafficDataset, http: Request, response: Response, store: Given[TrafficStore],
        owners: Given[DatasetOwners], layout: Given[Layout],
    ) -> dict[str, Any]:  # fmt: skip
        """Of the answers with feedback that the key may see. The same again puts nothing new."""
        owner = _whose(http, asked.key_id)
        principal = Principal.of(http.scope["headers"])
        wanted = Wanted(owner, asked.model)
        # It holds its maker's traffic: no other key writes it over, isolated or not.
        view = View(None if principal.sees_all else principal.actor)
        lines = _lines(store, wanted, feedback, asked)
        facts, new = await put_owned(
            datasets, owners, layout, view, principal, asked.name, lines, replace=asked.replace
        )
        response.status_code = 201 if new else 200
        return facts | {"kind": asked.kind, "existing": not new}

    return made


async def _lines(
    store: TrafficStore, wanted: Wanted, feedback: FeedbackRows, asked: TrafficDataset
) -> AsyncIterator[bytes]:
    """Raises Invalid where there are none."""
    some = False
    async for group in store.rated(wanted):
        if isinstance(group[0].content["prompt"], str) != (asked.prompts == "text"):
            continue
        for row in feedback.rows(asked.kind, _answers(group)):
            some = True
            yield json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    if not some:
        raise Invalid(f"kind: there is nothing to make it of: {_NOTHING[asked.kind]} (POST /feedback)")


def _answers(rows: Sequence[TrafficRow]) -> list[RatedAnswer]:
    return [
        RatedAnswer(
            request_id=row.request_id,
            answered_at=row.answered_at,
            model=row.model,
            digest=row.digest,
            prompt=row.content["prompt"],
            answer=row.content["answer"],
            rating=row.rating or 0,
            correction=row.correction,
        )
        for row in rows
    ]


def _whose(http: Request, key_id: str | None) -> str | None:
    """Whose traffic is meant; None: everybody's. Raises Forbidden."""
    principal = Principal.of(http.scope["headers"])
    if principal.sees_all:
        return key_id
    if key_id not in {None, principal.actor}:
        raise Forbidden("key_id: only a key with the scope admin sees the traffic of other keys")
    return principal.actor


def _own(http: Request, key_id: str | None) -> str:
    """The one key that is meant: that of the request unless an administrator names another. Raises Forbidden."""
    return _whose(http, key_id) or Principal.of(http.scope["headers"]).actor


async def _consent(key_id: str, consents: Consents, store: TrafficStore, settings: TrafficSettings) -> dict[str, Any]:
    history = await consents.history(key_id)
    requests, size_bytes = await store.count(key_id)
    return {
        "key_id": key_id,
        "keep": bool(history) and history[0].keep,
        "history": [{"keep": row.keep, "by": row.by, "at": iso(row.at)} for row in history],
        "kept": {"requests": requests, "size_bytes": size_bytes},
        "server": settings.model_dump(include={"on", "share", "max_age_days", "max_exchange_bytes"}),
    }


def _show(row: TrafficRow) -> dict[str, Any]:
    return {
        "request_id": row.request_id,
        "key_id": row.owner,
        "answered_at": iso(row.answered_at),
        "path": row.content["path"],
        "model": row.model,
        "model_digest": row.digest,
        "prompt": row.content["prompt"],
        "answer": row.content["answer"],
        "finish_reason": row.content["finish_reason"],
        "size_bytes": row.size_bytes,
        "feedback": None if row.rating is None else _feedback(row),
    }


def _feedback(row: TrafficRow) -> dict[str, Any]:
    return {
        "rating": row.rating,
        "correction": row.correction,
        "rated_by": row.rated_by,
        "rated_at": iso(row.rated_at),
    }
