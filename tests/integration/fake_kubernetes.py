"""An API server for one custom resource: `python -m tests.integration.fake_kubernetes PORT CRD ROLE`.

Discovery, lists, watches with resource versions that expire, merge patches, a status subresource, generations, events,
defaults, validation and pruning by the CRD's schema, and a Role for everybody but `Bearer admin`. Below /test a test
says what is to go wrong.
"""

import asyncio
import copy
import itertools
import json
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from jsonschema import Draft4Validator
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Object = dict[str, Any]
_DEFINITIONS = ("apiextensions.k8s.io", "v1")
_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


class Kubernetes:
    def __init__(self, crd: Object, role: Object) -> None:
        self.group: str = crd["spec"]["group"]
        self.plural: str = crd["spec"]["names"]["plural"]
        self.kind: str = crd["spec"]["names"]["kind"]
        (version,) = crd["spec"]["versions"]
        self.version: str = version["name"]
        self.schema: Object = version["schema"]["openAPIV3Schema"]
        self.rules: list[Object] = role["rules"]
        self.objects: dict[tuple[str, str], Object] = {}
        self.events: list[Object] = []
        self.forbidden: list[str] = []
        self.history: list[tuple[int, str, Object]] = []
        self.oldest = 0  # resource versions below it have expired
        self.epoch = 0  # of watches: those of an earlier one are cut
        self.trouble: list[Object] = []
        self.changed = asyncio.Condition()
        self._versions = itertools.count(1)
        self.newest = 0

    def record(self, kind: str, found: Object) -> None:
        self.newest = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self.newest)
        self.history.append((self.newest, kind, copy.deepcopy(found)))

    async def announce(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def may(self, verb: str, resource: str) -> bool:
        group = "" if resource == "events" else self.group
        return any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in self.rules
        )

    def refusal(self, found: Object) -> str | None:
        error = next(Draft4Validator(self.schema).iter_errors(found), None)
        return None if error is None else f"{'.'.join(map(str, error.absolute_path))}: {error.message}"

    def wrong(self, path: str, method: str) -> Response | None:
        """What a test has ordered for such a request, as often as it said."""
        for one in self.trouble:
            if one["times"] > 0 and one["method"] == method and path.endswith(one["path"]):
                one["times"] -= 1
                return status(one["status"], "as the test has ordered")
        return None


def status(code: int, message: str) -> JSONResponse:
    reasons = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return JSONResponse(body | {"reason": reasons.get(code, "InternalError")}, code)


def with_defaults(value: Any, schema: Object) -> Any:
    """As the API server does: what is left out is filled in, what the schema does not know is dropped."""
    if isinstance(value, dict) and "properties" in schema:
        known, open_ = schema["properties"], schema.get("x-kubernetes-preserve-unknown-fields", False)
        filled = {name: one["default"] for name, one in known.items() if "default" in one} | value
        return {
            name: with_defaults(one, known[name]) if name in known else one
            for name, one in filled.items()
            if open_ or name in known
        }
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(one, schema["items"]) for one in value]
    return value


def pruned(found: Object, schema: Object) -> Object:
    parts = {
        name: with_defaults(found[name], schema["properties"][name]) for name in ("spec", "status") if name in found
    }
    return found | parts


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def application(here: Kubernetes) -> Starlette:
    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        path, method = request.url.path, request.method
        if path.startswith("/test/") or "/namespaces/" not in path:
            return await call_next(request)
        if request.headers.get("authorization") != "Bearer admin":
            resource = "events" if path.endswith("/events") else here.plural
            resource += "/status" if path.endswith("/status") else ""
            read = "watch" if request.query_params.get("watch") else "list" if path.endswith(here.plural) else "get"
            verb = _VERBS.get(method, read)
            if not here.may(verb, resource):
                here.forbidden.append(f"{verb} {resource}")
                return status(403, f"the operator may not {verb} {resource}")
            if (ordered := here.wrong(path, method)) is not None:
                return ordered
        return await call_next(request)

    async def versions(_: Request) -> Response:
        return JSONResponse({"kind": "APIVersions", "versions": ["v1"]})

    async def groups(_: Request) -> Response:
        listed = []
        for name, number in ((here.group, here.version), _DEFINITIONS):
            version = {"groupVersion": f"{name}/{number}", "version": number}
            listed.append({"name": name, "versions": [version], "preferredVersion": version})
        return JSONResponse({"kind": "APIGroupList", "groups": listed})

    async def core(_: Request) -> Response:
        event = {"name": "events", "singularName": "event", "kind": "Event", "namespaced": True, "verbs": ["create"]}
        namespace = event | {"name": "namespaces", "singularName": "namespace", "kind": "Namespace"}
        namespace |= {"namespaced": False, "verbs": ["list", "watch"]}
        return JSONResponse({"kind": "APIResourceList", "groupVersion": "v1", "resources": [event, namespace]})

    async def definitions(_: Request) -> Response:
        one: Object = {"name": "customresourcedefinitions", "singularName": "", "kind": "CustomResourceDefinition"}
        one |= {"namespaced": False, "verbs": ["list", "watch"]}
        return JSONResponse({"kind": "APIResourceList", "groupVersion": "/".join(_DEFINITIONS), "resources": [one]})

    async def custom(_: Request) -> Response:
        verbs = ["get", "list", "watch", "create", "patch", "delete"]
        whole = {"name": here.plural, "singularName": "", "kind": here.kind, "namespaced": True, "verbs": verbs}
        part = whole | {"name": f"{here.plural}/status", "verbs": ["get", "patch", "update"]}
        listed = {"groupVersion": f"{here.group}/{here.version}", "resources": [whole, part]}
        return JSONResponse({"kind": "APIResourceList"} | listed)

    async def collection(request: Request) -> Response:
        namespace = request.path_params["namespace"]
        if request.method == "POST":
            return await create(namespace, await request.json())
        if request.query_params.get("watch"):
            since = int(request.query_params.get("resourceVersion") or 0)
            return StreamingResponse(watch(namespace, since), media_type="application/json")
        items = [found for (there, _), found in here.objects.items() if there == namespace]
        listed = {"kind": f"{here.kind}List", "apiVersion": f"{here.group}/{here.version}"}
        return JSONResponse(listed | {"metadata": {"resourceVersion": str(here.newest)}, "items": items})

    async def watch(namespace: str, since: int) -> AsyncIterator[str]:
        epoch = here.epoch
        while True:
            if since < here.oldest:
                gone = json.loads(bytes(status(410, "too old resource version").body))
                yield json.dumps({"type": "ERROR", "object": gone}) + "\n"
                return
            if epoch != here.epoch:
                return
            for version, kind, found in here.history:
                if version > since and found["metadata"]["namespace"] == namespace:
                    yield json.dumps({"type": kind, "object": found}) + "\n"
                    since = version
            async with here.changed:
                if here.newest <= since and epoch == here.epoch:
                    await here.changed.wait()

    async def create(namespace: str, found: Object) -> Response:
        key = (namespace, found["metadata"]["name"])
        if key in here.objects:
            return status(409, f"{key[1]} exists")
        found = pruned({name: value for name, value in found.items() if name != "status"}, here.schema)
        if (why := here.refusal(found)) is not None:
            return status(422, why)
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).isoformat(), "generation": 1}
        found["metadata"] |= made | {"namespace": namespace}
        here.objects[key] = found
        here.record("ADDED", found)
        await here.announce()
        return JSONResponse(found, 201)

    async def item(request: Request) -> Response:
        key = (request.path_params["namespace"], request.path_params["name"])
        found = here.objects.get(key)
        if found is None:
            return status(404, f"{key[1]} not found")
        if request.method == "DELETE":
            return await delete(key, found)
        if request.method == "PATCH":
            return await patch(key, found, await request.json(), part=request.url.path.endswith("/status"))
        return JSONResponse(found)

    async def delete(key: tuple[str, str], found: Object) -> Response:
        if found["metadata"].get("finalizers"):
            found["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            here.record("MODIFIED", found)
        else:
            del here.objects[key]
            here.record("DELETED", found)
        await here.announce()
        return JSONResponse(found)

    async def patch(key: tuple[str, str], found: Object, body: Object, *, part: bool) -> Response:
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            return status(409, "the object has been modified")
        changed = merged(found, {"status": body.get("status")} if part else body)
        if not part:
            changed.pop("status", None)
            changed |= {"status": found["status"]} if "status" in found else {}
        changed = pruned(changed, here.schema)
        if (why := here.refusal(changed)) is not None:
            return status(422, why)
        if changed == found:
            return JSONResponse(found)
        if changed["spec"] != found["spec"]:
            changed["metadata"]["generation"] += 1
        here.objects[key] = changed
        here.record("MODIFIED", changed)
        await here.announce()
        return JSONResponse(changed)

    async def post_event(request: Request) -> Response:
        here.events.append(await request.json())
        return JSONResponse(here.events[-1], 201)

    async def told(_: Request) -> Response:
        return JSONResponse({"events": here.events, "forbidden": here.forbidden, "trouble": here.trouble})

    async def order(request: Request) -> Response:
        """`{"refuse": {"method", "path", "status", "times"}}`, `{"expire": true}`, `{"cut": true}`"""
        body = await request.json()
        if "refuse" in body:
            here.trouble.append(body["refuse"])
        if body.get("expire"):
            here.record("BOOKMARK", {"metadata": {"namespace": ""}})
            here.history.clear()
            here.oldest = here.newest
        if body.get("cut"):
            here.epoch += 1
        await here.announce()
        return JSONResponse({})

    base = f"/apis/{here.group}/{here.version}"
    there = base + "/namespaces/{namespace}/" + here.plural
    return Starlette(
        routes=[
            Route("/api", versions),
            Route("/apis", groups),
            Route("/api/v1", core),
            Route(base, custom),
            Route("/apis/" + "/".join(_DEFINITIONS), definitions),
            Route("/api/v1/namespaces/{namespace}/events", post_event, methods=["POST"]),
            Route(there, collection, methods=["GET", "POST"]),
            Route(there + "/{name}", item, methods=["GET", "PATCH", "DELETE"]),
            Route(there + "/{name}/status", item, methods=["PATCH"]),
            Route("/test/told", told),
            Route("/test/order", order, methods=["POST"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
    )


def main(port: int, crd: Path, role: Path) -> None:
    (rights,) = (one for one in yaml.safe_load_all(role.read_text()) if one["kind"] == "Role")
    here = Kubernetes(yaml.safe_load(crd.read_text()), rights)
    uvicorn.run(application(here), port=port, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
