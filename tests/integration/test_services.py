"""Every part that a route of control asks for is provided by its composition root."""

from collections.abc import Iterator
from pathlib import Path

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from control.routes import datasets, evals
from control.services import Services
from evals.dataset_store import FileDatasetStore
from evals.judge import AllowedJudges
from evals.reports import EvalReports
from tests.integration.control_plane import control_plane


async def test_what_routes_ask_for_is_there(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        services = here.app.state.services
        assert isinstance(services, Services)
        more = (datasets.router_of(FileDatasetStore()), evals.router_of(EvalReports(AllowedJudges())))
        routes = [*here.app.routes, *(route for router in more for route in router.routes)]
        asked = {
            kind: route.path for route in routes if isinstance(route, APIRoute) for kind in _kinds(route.dependant)
        }
        assert len(asked) > 20
        assert {kind: path for kind, path in asked.items() if kind not in services} == {}


def _kinds(dependant: Dependant) -> Iterator[type]:
    for inner in dependant.dependencies:
        kind = getattr(inner.call, "kind", None)
        if kind is not None:
            yield kind
        yield from _kinds(inner)
