"""Every route that somebody answers has a row, every row is answered, and what is neither is refused in one place."""

import ast
import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from control.app import create_app
from control.routes import contamination, data_gen, datasets, eval_tasks, evals, traffic
from datagen.contamination_reports import ContaminationReports
from datagen.feedback import FeedbackRows
from datagen.kind import DataGenKind
from datagen.pipelines.preview import Previews
from datagen.rejections import RunReports
from evals.dataset_store import FileDatasetStore
from evals.harness.kind import TaskFileKind
from evals.kind import EvalKind
from evals.reports import EvalReports
from gateway.dialects.served import Served
from gateway.edge import openapi
from gateway.edge.configuration import Configuration
from gateway.http.asgi import Receive, Scope, Send
from gateway.inference.routes import create_routes
from gateway.pushing.trainer_routes import TrainerRoutes
from gateway.request.bounds import RequestBounds
from gateway.serving.naming import Naming
from gateway.sidecar.control_link import ControlProxy
from gateway.status.information import Information
from gateway.status.model_cards import ModelCards
from gateway.traffic.feedback import Feedback
from stepserve.contract import GatewayState
from stepserve.route_table import ROWS, Owner
from stepserve.settings import Settings
from tests.integration.control_plane import PACE, settings_of
from tests.integration.full_stack import FullStack, run_story

Named = set[tuple[str, str]]

EMPTY = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
# Are no framework's routes: the gateway takes their bodies off the socket.
STREAMED = {
    ("PUT", "/models/{model_id}/files/{name:path}"),
    *((method, "/models/{model_id}/weights") for method in ("GET", "HEAD", "PUT")),
    ("POST", "/update_weights"),
}

# Asked over control's own socket alone: by the gateway, by the supervisor, and by whoever owns the machine.
PRIVATE = {
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/loadable"), ("GET", "/loadable/{model_id:path}"),
    ("POST", "/uploads/open"), ("POST", "/uploads/close"),
    ("POST", "/internal/pushes"), ("POST", "/internal/keys/sync"), ("POST", "/internal/keys/recover"),
    ("POST", "/internal/responses/keep"), ("POST", "/internal/responses/context"),
    ("POST", "/internal/traffic/keep"), ("POST", "/internal/traffic/feedback"),
    ("POST", "/inference/jobs"), ("GET", "/inference/jobs/{job_id}"),
    ("POST", "/batches/jobs"), ("GET", "/batches/jobs/{job_id}"),
    ("POST", "/pull/jobs"), ("GET", "/pull/jobs/{job_id}"),
}  # fmt: skip


def rows(owner: Owner) -> Named:
    return {(method, row.path) for row in ROWS if row.owner == owner for method in row.methods}


def registered(routes: Sequence[BaseRoute]) -> Named:
    known = (each for each in routes if isinstance(each, APIRoute | Route))
    return {(method, each.path) for each in known for method in each.methods or ()}


def test_controls_routes_are_the_tables(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    more: list[APIRouter] = [
        contamination.router_of(ContaminationReports()),
        datasets.router_of(FileDatasetStore()),
        traffic.datasets_router(FileDatasetStore(), FeedbackRows()),
        evals.router_of(EvalReports()),
        eval_tasks.router_of(TaskFileKind.at(settings.layout, settings)),
        data_gen.reports_router(RunReports()),
        data_gen.previews_router(Previews(settings.layout)),
    ]
    app = create_app(settings, [EvalKind(), DataGenKind(settings.layout)], more_routes=more, pace=PACE, job_poll_s=0.3)
    found = registered([each for each in app.routes if isinstance(each, APIRoute)])
    assert found - PRIVATE == rows("control")


def test_the_gateways_routes_are_the_tables(tmp_path: Path) -> None:
    async def scenario() -> Named:
        control = ControlProxy(tmp_path / "no.sock", 1)
        served = Served(lambda: EMPTY, Naming())
        adapters = create_routes(
            Settings(base_dir=tmp_path), _nobody, served, control, unused, unused, RequestBounds.unbounded()
        )
        await control.close()
        for route in (*TrainerRoutes(unused, unused, unused).routes(), Feedback(control, unused, None, 1).route()):
            adapters.add(route)
        return {(method, route.path) for route in adapters.routes for method in _with_head(route.method)}

    unused: Any = None
    plain = Information(
        unused, unused, unused, ModelCards(unused, unused, Naming(), True), unused, 0.0, unused, unused, unused
    ).app()
    configuration = Configuration(unused, unused, Naming(), unused, unused)
    found = asyncio.run(scenario()) | registered([*plain.routes, *configuration.routes()])
    documents = {(method, path) for method in ("GET", "HEAD") for path in (openapi.PATH, openapi.PAGE_PATH)}
    assert found | documents | STREAMED == rows("gateway")


def test_vllm_has_the_routes_of_its_that_are_public() -> None:
    """Read, not imported: that takes minutes on a slow machine."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    theirs = {
        (decorator.func.attr.upper(), decorator.args[0].value)
        for file in (Path(found.origin).parent / "entrypoints").rglob("api_router.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.args
        and isinstance(decorator.args[0], ast.Constant)
    }
    assert rows("slot") <= theirs


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


def _with_head(method: str) -> tuple[str, ...]:
    return ("GET", "HEAD") if method == "GET" else (method,)


REFUSED_OR_FOUND: list[tuple[str, str, int, str | None, str]] = [
    ("GET", "/v1/chat/completions", 405, "POST", "error"),
    ("DELETE", "/v1/files", 405, "GET, POST", "error"),
    ("DELETE", "/fast/v1/models", 405, "GET, HEAD", "error"),
    ("PUT", "/api/chat", 405, "POST", "error"),
    ("POST", "/version", 405, "GET, HEAD", "detail"),
    ("PUT", "/jobs", 405, "GET", "detail"),
    ("POST", "/v1/nothing", 404, None, "error"),
    ("GET", "/nothing", 404, None, "detail"),
    ("GET", "/version/", 200, None, "api_version"),
    ("GET", "/v1/models/", 200, None, "data"),
    ("GET", "/api/version/", 200, None, "version"),
    ("GET", "/jobs/", 200, None, "jobs"),
    ("GET", "/v1/files/", 200, None, "data"),
]


def test_methods_and_slashes_are_the_same_everywhere(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        for method, path, status, allow, words in REFUSED_OR_FOUND:
            answer = await there.http.request(method, path)
            assert (answer.status_code, answer.headers.get("allow")) == (status, allow), (
                f"{method} {path}: {answer.text}"
            )
            assert words in answer.json(), f"{method} {path}"

    run_story(tmp_path, story)
