"""POST /feedback: what somebody thinks of an answer that was kept, and what would have been right."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from gateway.dialects.call import Call
from gateway.dialects.router import Route
from gateway.errors import InvalidField
from gateway.filtering.filter import Blocked
from gateway.http.error_rendering import Failure
from gateway.sidecar.control_link import ControlProxy
from gateway.traffic.redactor import Redactor
from gateway.traffic.writer import TrafficWriter
from stepserve.access import PRIVATE_HEADER_PREFIX
from stepserve.request_model import RequestModel
from stepserve.traffic import CONTROL_FEEDBACK_PATH, FEEDBACK_PATH, FeedbackOrder, Rating


class FeedbackRequest(RequestModel):
    """`request_id`: the answer's header `x-request-id`. `rating`: 1 for good, -1 for bad. `correction`: what would have
    been the right answer. `key_id`: whose request it was, where an administrator says it of another key's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    rating: Rating
    correction: Annotated[str, Field(min_length=1)] | None = None
    key_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """`writer`: where answers wait for control; None where none is kept."""

    control: ControlProxy
    redactor: Redactor
    writer: TrafficWriter | None
    max_correction_bytes: int

    def route(self) -> Route:
        return Route("POST", FEEDBACK_PATH, "Say whether an answer was good", self.take, request=FeedbackRequest)

    async def take(self, call: Call, request: FeedbackRequest) -> None:
        """Raises InvalidField, ControlDown."""
        correction = await self._redacted(request.correction)
        if self.writer is not None:
            await self.writer.settled()
        order = FeedbackOrder(
            request_id=request.request_id, rating=request.rating, correction=correction, key_id=request.key_id
        )
        whose = {
            name.decode(): value.decode("latin-1")
            for name, value in call.scope["headers"]
            if name.startswith(PRIVATE_HEADER_PREFIX)
        }
        answer = await self.control.request("POST", CONTROL_FEEDBACK_PATH, order.model_dump(), whose)
        if answer.status_code != 200:
            await call.refuse(Failure.said(answer.status_code, answer.content))
        else:
            await call.answer(answer.json())

    async def _redacted(self, correction: str | None) -> str | None:
        if correction is None:
            return None
        if not correction.strip():
            raise InvalidField("correction", "is blank; leave it out where there is none")
        if len(correction.encode(errors="surrogatepass")) > self.max_correction_bytes:
            limit = f"{self.max_correction_bytes} bytes (setting traffic.max_exchange_bytes)"
            raise InvalidField("correction", f"is longer than {limit}")
        try:
            return await asyncio.to_thread(self.redactor.answer, correction)
        except Blocked as error:
            raise InvalidField("correction", f"cannot be redacted, so it is not kept: {error}") from error
