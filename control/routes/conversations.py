"""/v1/conversations as OpenAI's clients use them."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, StringConstraints

from control.database.tables import ConversationRow
from control.errors import Invalid
from control.responses.conversations import Conversations
from control.routes.pages import page
from control.routes.stored_responses import Limit, Order, owner_of
from control.services import Given
from stepserve.request_model import RequestModel
from stepserve.stored_responses import Item

router = APIRouter(prefix="/v1/conversations")

MOST_ITEMS = 20  # as at OpenAI
_Name = Annotated[str, StringConstraints(max_length=64)]
_Text = Annotated[str, StringConstraints(max_length=512)]
Details = Annotated[dict[_Name, _Text], Field(max_length=16)]
Items = Annotated[list[Item], Field(max_length=MOST_ITEMS)]
_ROLES = ("user", "assistant", "system", "developer")


class CreateConversation(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    items: Items = Field(default_factory=list)
    metadata: Details = Field(default_factory=dict)


class UpdateConversation(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    metadata: Details


class AddItems(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    items: Items


@router.post("")
async def create(request: Request, conversations: Given[Conversations], asked: CreateConversation) -> dict[str, Any]:
    _check(asked.items)
    return _shown(await conversations.create(owner_of(request), asked.metadata, asked.items))


@router.get("/{conversation_id}")
async def get(request: Request, conversation_id: str, conversations: Given[Conversations]) -> dict[str, Any]:
    return _shown(await conversations.get(owner_of(request), conversation_id))


@router.post("/{conversation_id}")
async def update(
    request: Request, conversation_id: str, conversations: Given[Conversations], asked: UpdateConversation
) -> dict[str, Any]:
    return _shown(await conversations.update(owner_of(request), conversation_id, asked.metadata))


@router.delete("/{conversation_id}")
async def delete(request: Request, conversation_id: str, conversations: Given[Conversations]) -> dict[str, Any]:
    await conversations.remove(owner_of(request), conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.get("/{conversation_id}/items")
async def list_items(
    request: Request,
    conversation_id: str,
    conversations: Given[Conversations],
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    found = await conversations.page(
        owner_of(request), conversation_id, newest_first=order == "desc", after=after, limit=limit
    )
    return page(found.items, has_more=found.has_more)


@router.post("/{conversation_id}/items")
async def create_items(
    request: Request, conversation_id: str, conversations: Given[Conversations], asked: AddItems
) -> dict[str, Any]:
    _check(asked.items)
    return page(await conversations.add(owner_of(request), conversation_id, asked.items), has_more=False)


@router.get("/{conversation_id}/items/{item_id}")
async def get_item(request: Request, conversation_id: str, item_id: str, conversations: Given[Conversations]) -> Item:
    return await conversations.item(owner_of(request), conversation_id, item_id)


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(
    request: Request, conversation_id: str, item_id: str, conversations: Given[Conversations]
) -> dict[str, Any]:
    return _shown(await conversations.remove_item(owner_of(request), conversation_id, item_id))


def _shown(row: ConversationRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "conversation",
        "created_at": int(row.created_at.timestamp()),
        "metadata": row.details,
    }


def _check(items: Items) -> None:
    """Raises Invalid for what could never be shown to a model."""
    for number, item in enumerate(items):
        kind = item.get("type")
        kind = "message" if kind is None else kind
        if not isinstance(kind, str):
            raise Invalid(f"items: items.{number}.type must be a string")
        if kind != "message":
            continue
        if item.get("role") not in _ROLES:
            raise Invalid(f"items: items.{number}.role must be one of {', '.join(_ROLES)}")
        if not isinstance(item.get("content"), (str, list)):
            raise Invalid(f"items: items.{number}.content must be a text or a list of parts")
