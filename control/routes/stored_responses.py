"""/v1/responses/{id}: responses that are kept; and what the gateway tells and asks of them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from control.access.principal import Principal
from control.errors import NotOffered
from control.responses.store import ResponseStore
from control.routes.pages import page
from control.services import Given
from stepserve.stored_responses import (
    CONTROL_CONTEXT_PATH,
    CONTROL_KEEP_PATH,
    ContextAnswer,
    ContextRequest,
    KeepRequest,
)

router = APIRouter()

Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.get("/v1/responses/{response_id}")
async def get_response(
    request: Request,
    response_id: str,
    store: Given[ResponseStore],
    stream: bool | None = False,
    starting_after: int | None = None,
) -> dict[str, Any]:
    if stream or starting_after is not None:  # vLLM's, for answers in the background, which are not taken
        raise NotOffered("stream: a response that is over is not streamed again; ask without it")
    return await store.get(owner_of(request), response_id)


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str, store: Given[ResponseStore]) -> dict[str, Any]:
    await store.remove(owner_of(request), response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str, store: Given[ResponseStore]) -> dict[str, Any]:
    """As at OpenAI, of a response that was not made in the background; none is here."""
    await store.get(owner_of(request), response_id)
    raise NotOffered("Cannot cancel a synchronous response.")


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    store: Given[ResponseStore],
    limit: Limit = 20,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    items, has_more = await store.input_items(
        owner_of(request), response_id, newest_first=order == "desc", after=after, limit=limit
    )
    return page(items, has_more=has_more)


@router.post(CONTROL_KEEP_PATH, include_in_schema=False)
async def keep(asked: KeepRequest, store: Given[ResponseStore]) -> None:
    await store.keep(asked.responses)


@router.post(CONTROL_CONTEXT_PATH, include_in_schema=False)
async def context(asked: ContextRequest, store: Given[ResponseStore]) -> ContextAnswer:
    return await store.context(asked)


def owner_of(request: Request) -> str:
    """Whose responses and conversations a request may see: its own key's and nobody else's, administrators included."""
    return Principal.of(request.scope["headers"]).actor
