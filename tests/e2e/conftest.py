"""One real server for the whole run; a test that ends a server starts its own.

`INFERENCE_ENGINE__PATCHES='{"all": "off"}' pytest tests/e2e` runs them with vLLM as it is. A test of what a patch
brings has the marker `patches` and is skipped there.
"""

import json
import os
from collections.abc import Iterator

import pytest

from stepserve.settings import EnginePatches
from tests.e2e.server import PATCHES_VARIABLE, Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    off = EnginePatches.model_validate(json.loads(os.environ.get(PATCHES_VARIABLE, "{}"))).off
    for item in items:
        wanted = {name for marker in item.iter_markers("patches") for name in marker.args}
        if missing := sorted(wanted & off):
            item.add_marker(pytest.mark.skip(f"tests what {', '.join(missing)} brings, which is off"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("base")) as running:
        running.wait_ready()
        yield running


@pytest.fixture(autouse=True)
def _serving(request: pytest.FixtureRequest) -> None:
    """A test that shakes the shared server leaves it to the next one only when it is well again."""
    if "server" in request.fixturenames:
        shared: Server = request.getfixturevalue("server")
        shared.wait_ready()
