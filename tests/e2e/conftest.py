"""One real server for the whole run; a test that ends a server starts its own.

`INFERENCE_ENGINE__PATCHES='{"all": "off"}' pytest tests/e2e` runs them with vLLM as it is. A test of what a patch
brings has the marker `patches` and is skipped there.

Modules come in the order of LAST: what costs most comes last, where a run that has an end (`.ci/run`) may not come to
it.
"""

import json
import os
from collections.abc import Iterator

import pytest

from stepserve.settings import EnginePatches
from tests.e2e.server import PATCHES_VARIABLE, Server

# In this order, the cheapest first.
LAST = (
    "test_documents",
    "test_loading",
    "test_not_finite",
    "test_engine",
    "test_adapters",
    "test_parsers",
    "test_stopping",
    "test_survival",
    "test_fleet",
    "test_trl",
    "test_data_gen",
    "test_loop",
    "test_chat_templates",
    "test_ranks",
    "test_nodes",
    "test_architectures",
    "test_fuzz",
    "test_kills",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.path.stem))  # sort is stable: within a module nothing changes
    off = EnginePatches.model_validate(json.loads(os.environ.get(PATCHES_VARIABLE, "{}"))).off
    for item in items:
        wanted = {name for marker in item.iter_markers("patches") for name in marker.args}
        if missing := sorted(wanted & off):
            item.add_marker(pytest.mark.skip(f"tests what {', '.join(missing)} brings, which is off"))


def _place(module: str) -> int:
    return LAST.index(module) + 1 if module in LAST else 0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("base"), task_files__run_by="admin") as running:
        running.wait_ready()
        yield running


@pytest.fixture(autouse=True)
def _serving(request: pytest.FixtureRequest) -> None:
    """A test that shakes the shared server leaves it to the next one only when it is well again."""
    if "server" in request.fixturenames:
        shared: Server = request.getfixturevalue("server")
        shared.wait_ready()
