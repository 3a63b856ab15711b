"""Routes of traffic that is kept, and of feedback on it, as client.calls has the others."""

from typing import Any, Literal
from urllib.parse import quote

from stepserve.client.wire import Call, as_it_is

Json = dict[str, Any]
Kind = Literal["eval", "dpo", "kto"]


def give_feedback(
    request_id: str, rating: Literal[-1, 1], correction: str | None = None, *, key_id: str | None = None
) -> Call[Json]:
    """`request_id`: the answer's header `x-request-id`. The same again takes the place of the first. Raises NotFound,
    which says why the request was not kept.
    """
    body = _given(request_id=request_id, rating=rating, correction=correction, key_id=key_id)
    return Call("POST", "/feedback", as_it_is, body=body)


def traffic_consent(key_id: str | None = None) -> Call[Json]:
    """Whether a key's traffic may be kept, who said so and when."""
    return Call("GET", "/traffic/consent", as_it_is, params=_given(key_id=key_id))


def set_traffic_consent(*, keep: bool, key_id: str | None = None) -> Call[Json]:
    return Call("PUT", "/traffic/consent", as_it_is, body=_given(keep=keep, key_id=key_id))


def list_traffic(
    key_id: str | None = None,
    model: str | None = None,
    *,
    rated: bool | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Call[Json]:
    """What is kept, newest first; `next` is where the next page begins."""
    params = _given(key_id=key_id, model=model, rated=rated, limit=limit, after=after)
    return Call("GET", "/traffic/requests", as_it_is, params=params)


def get_traffic(request_id: str, key_id: str | None = None) -> Call[Json]:
    """Raises NotFound."""
    return Call("GET", f"/traffic/requests/{quote(request_id)}", as_it_is, params=_given(key_id=key_id))


def delete_traffic(request_id: str | None = None, key_id: str | None = None) -> Call[Json]:
    """One request, or all of a key."""
    one = f"/{quote(request_id)}" if request_id is not None else ""
    return Call("DELETE", f"/traffic/requests{one}", as_it_is, params=_given(key_id=key_id))


def make_traffic_dataset(
    name: str,
    kind: Kind,
    *,
    prompts: Literal["chat", "text"] = "chat",
    model: str | None = None,
    key_id: str | None = None,
    replace: bool = False,
) -> Call[Json]:
    """A dataset of answers with feedback, for evals or in TRL's formats. Raises Invalid where there are none."""
    body = _given(name=name, kind=kind, prompts=prompts, model=model, key_id=key_id, replace=replace)
    return Call("POST", "/traffic/datasets", as_it_is, body=body, timeout_s=600.0)


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
