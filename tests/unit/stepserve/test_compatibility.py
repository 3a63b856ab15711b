"""Which changes of the OpenAPI document break a client, and that this version's document has none."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from reference.compatibility import breaking
from tests.documents import REPOSITORY

RELEASED, CURRENT = "openapi-0.1.0.json", "openapi.json"
DOCUMENT: dict[str, Any] = {
    "paths": {
        "/jobs": {
            "get": {
                "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}}],
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}}
                },
            },
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Asked"}}},
                },
                "responses": {"202": {}},
            },
        }
    },
    "components": {
        "schemas": {
            "Job": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "parent": {"$ref": "#/components/schemas/Job"}},
                "required": ["id"],
            },
            "Asked": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "order": {"enum": ["up", "down"], "type": "string"},
                    "rule": {"$ref": "#/components/schemas/Rule"},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
            "Rule": {"type": "object", "properties": {"alpha": {"type": "number", "maximum": 1}}},
        }
    },
}
Change = Callable[[dict[str, Any]], object]


def paths(document: dict[str, Any]) -> Any:
    return document["paths"]["/jobs"]


def schema(document: dict[str, Any], name: str) -> Any:
    return document["components"]["schemas"][name]


def fields(document: dict[str, Any], name: str) -> Any:
    return schema(document, name)["properties"]


BREAKS: list[tuple[Change, str]] = [
    (lambda it: it["paths"].pop("/jobs"), "GET /jobs: the route was removed"),
    (lambda it: paths(it).pop("post"), "POST /jobs: the route was removed"),
    (lambda it: paths(it)["get"].pop("parameters"), "GET /jobs: the query parameter limit was removed"),
    (
        lambda it: paths(it)["get"]["parameters"][0].update(required=True),
        "GET /jobs: the query parameter limit became required",
    ),
    (
        lambda it: paths(it)["get"]["parameters"][0]["schema"].update(maximum=50),
        "GET /jobs: the field limit has a narrower maximum, 50",
    ),
    (lambda it: paths(it)["post"]["requestBody"].update(required=True), "POST /jobs: a body became required"),
    (lambda it: paths(it)["post"].update(responses={"200": {}}), "POST /jobs: the answer 202 was removed"),
    (lambda it: fields(it, "Asked").pop("share"), "POST /jobs: the field share was removed"),
    (lambda it: schema(it, "Asked")["required"].append("share"), "POST /jobs: the field share became required"),
    (
        lambda it: fields(it, "Asked").update(share={"type": "integer"}),
        "POST /jobs: the field share no longer takes null, number",
    ),
    (lambda it: fields(it, "Asked")["order"].update(enum=["up"]), "POST /jobs: the field order no longer takes down"),
    (
        lambda it: fields(it, "Asked")["name"].update(enum=["a"]),
        "POST /jobs: the field name no longer takes other values",
    ),
    (lambda it: fields(it, "Rule").pop("alpha"), "POST /jobs: the field rule.alpha was removed"),
    (
        lambda it: fields(it, "Rule")["alpha"].update(minimum=0.5),
        "POST /jobs: the field rule.alpha has a narrower minimum, 0.5",
    ),
    (lambda it: fields(it, "Job").pop("id"), "GET /jobs: the field id of the answer was removed"),
    (lambda it: schema(it, "Job").pop("required"), "GET /jobs: the field id of the answer may now be absent"),
    (
        lambda it: fields(it, "Job").update(id={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "GET /jobs: the field id of the answer may now be null",
    ),
]

# What the document of the last release had left out, and the server has asked for all along.
WAS_SO = {"POST /eval/jobs/{job_id}/rescore: a body became required"}

HARMLESS: list[Change] = [
    lambda it: None,
    lambda it: it["paths"].update({"/new": {"get": {}}}),
    lambda it: fields(it, "Asked").update(more={"type": "string"}),
    lambda it: fields(it, "Asked").update(name={"anyOf": [{"type": "string"}, {"type": "integer"}]}),
    lambda it: fields(it, "Asked")["order"].pop("enum"),
    lambda it: schema(it, "Asked").pop("required"),
    lambda it: fields(it, "Rule")["alpha"].update(maximum=2),
    lambda it: fields(it, "Job").update(more={"type": "string"}),
    lambda it: paths(it)["get"]["parameters"].append({"name": "more", "in": "query", "schema": {"type": "string"}}),
]


@pytest.mark.parametrize(("change", "said"), BREAKS, ids=[said for _, said in BREAKS])
def test_a_change_that_breaks_a_client_is_named(change: Change, said: str) -> None:
    now = copy.deepcopy(DOCUMENT)
    change(now)
    assert said in breaking(DOCUMENT, now)


@pytest.mark.parametrize("change", HARMLESS)
def test_what_a_client_does_not_notice_breaks_nothing(change: Change) -> None:
    now = copy.deepcopy(DOCUMENT)
    change(now)
    assert breaking(DOCUMENT, now) == []


def test_this_version_breaks_no_client_of_the_last_release() -> None:
    """Where one must: announce it as deprecated for a release first (docs/stability.md)."""
    released, now = (json.loads((REPOSITORY / "docs" / "reference" / name).read_text()) for name in (RELEASED, CURRENT))
    assert set(breaking(released, now)) - WAS_SO == set()
