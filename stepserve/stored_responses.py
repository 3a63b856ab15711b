"""What gateway and control tell each other of stored responses and conversations, and the settings of both."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from stepserve.contract import Message

CONTROL_KEEP_PATH = "/internal/responses/keep"
CONTROL_CONTEXT_PATH = "/internal/responses/context"

MOST_VALUES = 150_000
"""Of one request to keep responses: commas and brackets. Below what control takes for a body that holds it up."""

Item = dict[str, Any]


class StoredResponsesSettings(BaseModel):
    """What /v1/responses and /v1/conversations keep. `store`: of a request that does not say `store` itself.

    `max_age_days`: since a response or conversation was last used; null: for ever. `max_bytes_per_key`: of one key's
    responses and conversations; the ones that were not used for longest go first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: bool = True
    max_age_days: Annotated[float, Field(gt=0)] | None = 30.0
    max_bytes_per_key: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024


class KeptResponse(Message):
    """An answer that is to be kept. `store` false: only the conversation gets its items.

    `input`: as the request had it. `upto`: the conversation's last item when the request came.
    """

    owner: str
    response: dict[str, Any]
    input: list[Item]
    store: bool = True
    previous_id: str | None = None
    conversation_id: str | None = None
    upto: int | None = None


class KeepRequest(Message):
    responses: list[KeptResponse]


class ContextRequest(Message):
    """What came before a request, by exactly one of the two ids."""

    owner: str
    previous_id: str | None = None
    conversation_id: str | None = None
    max_bytes: int


class ContextAnswer(Message):
    """`items` as vLLM takes them as `input`, oldest first."""

    items: list[Item]
    upto: int | None = None
