"""One real server for the whole run; a test that ends a server starts its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.server import Server


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
