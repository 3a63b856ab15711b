"""A real control process that is going to be killed."""

import os
from contextlib import suppress
from pathlib import Path

import httpx

from control.__main__ import main
from stepserve.unix_http import unix_transport
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.forked import Forked


class KillableControl:
    """Control's program on the control plane's base directory; it speaks on its own socket."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._socket = settings_of(base).layout.control_socket
        self._process: Forked | None = None

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        environment = os.environ | {
            "INFERENCE_BASE_DIR": str(self._base),
            "INFERENCE_INSTALL_DEMO": "false",
            "INFERENCE_PROOF_COMPUTE_MAX_BYTES": "0",
        }
        self._process = Forked(main, environment)

        async def answers() -> bool:
            with suppress(httpx.HTTPError):
                async with self._http() as http:
                    return (await http.get("/health")).status_code == 200
            return False

        await eventually(answers, lambda it_does: it_does)

    async def set_active(self, model_id: str) -> None:
        await self.ask("POST", "/models/set_active", id=model_id)

    async def ask(self, method: str, path: str, **body: object) -> None:
        """Its answer, or its death."""
        with suppress(httpx.HTTPError):
            async with self._http() as http:
                await http.request(method, path, json=body or None)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    async def gone(self) -> None:
        assert self._process is not None
        await self._process.gone()

    def _http(self) -> httpx.AsyncClient:
        transport = unix_transport(self._socket)
        return httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240)
