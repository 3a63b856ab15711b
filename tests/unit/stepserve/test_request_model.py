"""A null in a request: as if it had not been sent."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import control.routes
from control.access.new_key import NewKey
from control.models.registration import RegisterRequest
from control.notifications.webhook import WebhookRequest
from control.promotion.canary_request import CanaryRequest
from control.promotion.request import PromotionRequest, SuiteItem
from control.promotion.rule import Rule
from control.pull.request import PullRequest
from control.routes.activations import SetActiveRequest
from control.routes.shards import AckRequest, ClaimRequest
from datagen.config import GenerationConfig
from datagen.request import DataGenRequest
from evals.request import EvalJobRequest
from evals.rescore import RescoreRequest
from gateway.dialects.native.chat import ChatRequest
from gateway.dialects.native.generate import GenerateRequest
from gateway.dialects.native.solve import MathRequest
from gateway.dialects.ollama.requests import OllamaChatRequest, OllamaGenerateRequest, Options
from stepserve.contract import EngineOverrides, Message
from stepserve.request_model import RequestModel
from stepserve.settings import Alias

SENT: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (RegisterRequest, {"id": "a", "source": "4090"}),
    (SetActiveRequest, {"id": "a"}),
    (PullRequest, {"model": "gpt2"}),
    (NewKey, {"name": "a"}),
    (EvalJobRequest, {"model_id": "a", "name": "x", "dataset_ref": "a.jsonl"}),
    (RescoreRequest, {"metrics": ["accuracy"]}),
    (DataGenRequest, {"model_id": "a", "strategy": "self_instruct"}),
    (GenerationConfig, {}),
    (ClaimRequest, {"consumer": "a"}),
    (AckRequest, {"claim_id": "c"}),
    (GenerateRequest, {"prompt": "x"}),
    (ChatRequest, {"messages": [{"role": "user", "content": "x"}]}),
    (MathRequest, {"problem": "x"}),
    (OllamaChatRequest, {"model": "a"}),
    (OllamaGenerateRequest, {"model": "a"}),
    (Options, {}),
    (WebhookRequest, {"url": "https://example.com/hook"}),
    (SuiteItem, {"dataset_ref": "a.jsonl", "metric": "accuracy"}),
    (PromotionRequest, {"candidate": "a", "suite": [{"dataset_ref": "a.jsonl", "metric": "accuracy"}]}),
    (Rule, {}),
    (CanaryRequest, {}),
    (EngineOverrides, {}),
    (Alias, {}),
]


@pytest.mark.parametrize(("kind", "sent"), SENT, ids=[kind.__name__ for kind, _ in SENT])
def test_every_optional_field_may_be_null(kind: type[BaseModel], sent: dict[str, Any]) -> None:
    known = {name: value for name, value in sent.items() if name in kind.model_fields}
    optional = [name for name, field in kind.model_fields.items() if not field.is_required() and name not in known]
    plain = kind.model_validate(known)
    nulls = kind.model_validate(known | dict.fromkeys(optional))
    may_be_none = {name for name in optional if getattr(nulls, name) is None}
    compared = set(kind.model_fields) - may_be_none - {"seed"}  # some are drawn anew
    assert nulls.model_dump(include=compared) == plain.model_dump(include=compared)


def test_no_body_of_control_takes_null_for_a_mistake() -> None:
    bodies = [*_bodies(), *(kind for kind, _ in SENT)]
    known = (RequestModel, Message)  # messages are sent by our own processes
    strict = {kind.__name__ for body in bodies for kind in _with_nested(body) if not issubclass(kind, known)}
    assert strict == set()


def _bodies() -> Iterator[type[BaseModel]]:
    """What control's routes read by themselves; those of job kinds are in SENT."""
    for found in pkgutil.iter_modules(control.routes.__path__):
        router = getattr(importlib.import_module(f"control.routes.{found.name}"), "router", None)
        for route in getattr(router, "routes", ()):
            if isinstance(route, APIRoute):
                for parameter in route.dependant.body_params:
                    yield from _models(parameter.field_info.annotation)


def _with_nested(kind: type[BaseModel], seen: frozenset[type] = frozenset()) -> Iterator[type[BaseModel]]:
    """It and what it holds, of those that have a field whose null is neither asked for nor a value of its own."""
    if kind in seen:
        return
    fields = kind.model_fields.values()
    if any(not each.is_required() and NoneType not in get_args(each.annotation) for each in fields):
        yield kind
    for each in fields:
        for inner in _models(each.annotation):
            yield from _with_nested(inner, seen | {kind})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


class _Request(RequestModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    tags: list[str] = Field(default=[])
    limit: int | None = 5
    anything: Any = 1


def test_null_has_a_meaning_where_none_is_a_value() -> None:
    assert _Request.model_validate_json('{"name": "a", "tags": null, "limit": null, "anything": null}') == _Request(
        name="a", limit=None, anything=None
    )


@pytest.mark.parametrize("sent", [{"name": None}, {"name": "a", "colour": None}])
def test_what_is_needed_and_what_is_unknown_is_refused_all_the_same(sent: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _Request.model_validate(sent)
