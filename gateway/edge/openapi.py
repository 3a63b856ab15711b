"""GET /openapi.json: one document of every public route, put together from those who answer them."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute
from starlette.routing import Route as PlainRoute

from gateway.dialects.call import Call
from gateway.dialects.router import Route
from gateway.edge.pages import readable, send_page
from gateway.errors import Unserved
from gateway.serving.gate import Gate
from gateway.sidecar.control_link import ControlProxy
from stepserve import __version__
from stepserve.contract import InFlightPolicy
from stepserve.delta import MEDIA_TYPE
from stepserve.route_table import ROWS, Owner, Row, match

Json = dict[str, Any]

PATH = "/openapi.json"
PAGE_PATH = "/docs"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SCHEMAS = "#/components/schemas/"
_ROWS = {(method, row.path_format): row for row in ROWS for method in row.methods}
_ERROR = {"description": "refused; the body says why"}
_ANSWER = {"description": "answered"}
_BINARY = {"type": "string", "format": "binary"}
_OF_A_PUSH = [
    {"name": "version", "in": "query", "schema": {"type": "string", "minLength": 1, "maxLength": 128}},
    {"name": "persist", "in": "query", "schema": {"type": "boolean", "default": False}},
    {"name": "in_flight", "in": "query", "schema": {"enum": list(get_args(InFlightPolicy)), "default": "finish"}},
    {"name": "timeout_s", "in": "query", "schema": {"type": "number", "exclusiveMinimum": 0, "default": 300}},
    {
        "name": "base", "in": "query", "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": f"The digest that a body of the type {MEDIA_TYPE} is a delta for",
    },
]  # fmt: skip


def describe(gate: Gate, control: ControlProxy, routes: Iterable[Route], plain: Iterable[BaseRoute]) -> list[Route]:
    """The routes of the document, as JSON and as a page. `plain` are those of the gateway's other routes."""
    described = OpenApi(gate, control, [*routes], [route for route in plain if isinstance(route, PlainRoute)])
    return [
        Route("GET", PATH, "This document", described.answer),
        Route("GET", PAGE_PATH, "This document as a page", described.show),
    ]


@dataclass(frozen=True, slots=True)
class OpenApi:
    """`/v1` is described while an engine is loaded, control's routes while control is up."""

    gate: Gate
    control: ControlProxy
    routes: list[Route]
    plain: list[PlainRoute]

    async def answer(self, call: Call, _: None) -> None:
        await call.answer(await self.document())

    async def show(self, call: Call, _: None) -> None:
        page = await asyncio.to_thread(readable, await self.document())
        await send_page(call, "Stepserve's routes", page)

    async def document(self) -> Json:
        parts = [own(self.routes, self.plain)]
        slot = self.gate.slot
        if slot is not None and not slot.dead:
            engines = await asyncio.to_thread(slot.host.engine.openapi)
            parts.append(selected(engines, "vllm", _paths_of("slot").__contains__))
        try:
            answer = await self.control.request("GET", PATH)
        except Unserved:
            answer = None
        if answer is not None and answer.status_code == 200:
            parts.append(selected(answer.json(), "control", _paths_of("control").__contains__))
        merged: Json = {"paths": {}, "schemas": {}}
        for part in parts:
            merged["paths"] |= part["paths"]
            merged["schemas"] |= part["schemas"]
        mark_deprecated(merged["paths"])
        return {
            "openapi": "3.1.0",
            "info": {"title": "Stepserve", "version": __version__},
            "paths": merged["paths"],
            "components": {"schemas": merged["schemas"]},
        }


def mark_deprecated(paths: Json) -> None:
    """By the table of routes, which installed dialects have added theirs to."""
    for path, item in paths.items():
        for method, operation in item.items():
            row = _ROWS.get((method.upper(), path)) or match(method.upper(), path).row
            if row is not None and row.deprecation is not None:
                operation["deprecated"] = True


def _paths_of(owner: Owner) -> frozenset[str]:
    return frozenset(row.path_format for row in ROWS if row.owner == owner)


def own(routes: Iterable[Route], plain: Iterable[PlainRoute]) -> Json:
    """The gateway's: `plain` are routes whose answers no schema describes."""
    models = sorted({route.request for route in routes if route.request is not None}, key=lambda model: model.__name__)
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}")
    paths: Json = {}
    for each in plain:
        path, operations = _plain(each)
        paths[path] = paths.get(path, {}) | operations
    for row in ROWS:
        if row.body == "weights":
            paths[row.path_format] = _of_tensors(row)
    for route in routes:
        operation: Json = {"summary": route.summary, "responses": {"200": _ANSWER, "4XX": _ERROR, "503": _ERROR}}
        if route.request is not None:
            schema = {"$ref": _SCHEMAS + route.request.__name__}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {"paths": paths, "schemas": found.get("$defs", {})}


def _of_tensors(row: Row) -> Json:
    """Routes whose body is bytes of safetensors."""
    text = {"type": "string", "minLength": 1}
    names = _PARAMETER.findall(row.path)
    shared = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    operations: Json = {"parameters": shared} if shared else {}
    for method in set(row.methods) - {"HEAD"}:
        operation: Json = {"summary": row.label, "responses": {"200": _ANSWER, "4XX": _ERROR, "503": _ERROR}}
        if method == "GET":
            operation["summary"] = "The version of the weights, and the tensors that a push must have"
        else:
            operation["summary"] = "Tensors of a push" if method == "PUT" else "vLLM: tensors of an update"
            kinds = ["application/octet-stream", MEDIA_TYPE] if method == "PUT" else ["application/octet-stream"]
            content = {kind: {"schema": _BINARY} for kind in kinds}
            operation["requestBody"] = {"required": True, "content": content}
        if method == "PUT":
            operation["parameters"] = _OF_A_PUSH
        operations[method.lower()] = operation
    return operations


def _plain(route: PlainRoute) -> tuple[str, Json]:
    """A route in Starlette's notation: `/v1/models/{name:path}`."""
    path = route.path
    names = _PARAMETER.findall(path)
    operation: Json = {"summary": path, "responses": {"200": _ANSWER, "4XX": _ERROR, "503": _ERROR}}
    if names:
        text = {"type": "string", "minLength": 1}
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
    taking = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
    methods = sorted((route.methods or set()) - {"HEAD"})
    operations = {each.lower(): operation | (taking if each == "PUT" else {}) for each in methods}
    return _PARAMETER.sub(r"{\1}", path), operations


def selected(document: Json, prefix: str, wanted: Callable[[str], bool]) -> Json:
    """Those paths of another's document that are public, its schemas under names of their own.

    Schemas that came with their definitions inside (`$defs`) give them to the document.
    """
    document = {"paths": {path: item for path, item in document["paths"].items() if wanted(path)},
                "schemas": document.get("components", {}).get("schemas", {})}  # fmt: skip
    inner: Json = {}
    _hoist(document, inner)
    document["schemas"] |= inner
    text = msgspec.json.encode(document)
    for place in (_SCHEMAS, "#/$defs/"):
        text = text.replace(f'"{place}'.encode(), f'"{_SCHEMAS}{prefix}.'.encode())
    renamed: Json = msgspec.json.decode(text)
    renamed["schemas"] = {f"{prefix}.{name}": schema for name, schema in renamed["schemas"].items()}
    return renamed


def _hoist(node: Any, inner: Json) -> None:
    if isinstance(node, dict):
        inner |= node.pop("$defs", {})
        for value in node.values():
            _hoist(value, inner)
    elif isinstance(node, list):
        for value in node:
            _hoist(value, inner)
