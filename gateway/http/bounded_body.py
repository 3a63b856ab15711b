"""A request's body, read off the connection once and looked into before anything is made of it."""

from gateway.http.asgi import Receive, read_body
from gateway.request.body import RequestBody
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext


async def read_within(
    bounds: RequestBounds, context: RequestContext, receive: Receive, max_bytes: int, path: str
) -> RequestBody:
    """The body, read and looked into unless it has been, and put into the request's context with its estimate.

    Raises what `read_body` and `RequestBounds.estimate` raise.
    """
    if context.body is None:
        context.body = RequestBody(await read_body(receive, max_bytes))
    if context.estimate is None:
        context.estimate = await bounds.estimate(context.body, path)
    return context.body
