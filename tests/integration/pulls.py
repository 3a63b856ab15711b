"""Pulls from a hub on loopback, and what is there when they have ended."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.integration.adapter_files import write_adapter
from tests.integration.control_plane import ControlPlane, control_plane
from tests.integration.fake_hub import FakeHub, Repository
from tests.unit.control.checkpoint_files import CONFIG, write_checkpoint, write_shard

WEIGHTS = "model.safetensors"
LARGE_BYTES = 4_000_000
CDN = "localhost"  # another origin than the hub's 127.0.0.1, and not public


@asynccontextmanager
async def pulling(
    hub: FakeHub, base: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> AsyncIterator[ControlPlane]:
    async with hub.running():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(base / "hf"))
        settings: dict[str, Any] = {"hub_timeout_s": 1, "hub_hosts": [CDN]}
        async with control_plane(base, **(settings | changes)) as here:
            yield here


def add(hub: FakeHub, name: str, folder: Path, seed: int = 0, **changes: Any) -> Repository:
    """A repository whose weights are large enough to be cut into pieces; beside them a pickle and some code."""
    write_checkpoint(folder, seed)
    data = random.Random(seed).randbytes(LARGE_BYTES)
    write_shard(folder / WEIGHTS, {"weight": data})
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    return hub.add(name, folder)


def add_adapter(hub: FakeHub, name: str, folder: Path) -> None:
    hub.add(name, write_adapter(folder))


async def pull(here: ControlPlane, model: str, **body: Any) -> Any:
    response = await here.http.post("/pull", json={"model": model, **body})
    assert response.status_code == 202, response.text
    return response.json()


async def ended(here: ControlPlane, job_id: str) -> Any:
    return await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["status"] in {"done", "failed"})


def visible(here: ControlPlane) -> list[str]:
    return sorted(path.name for path in here.layout.models.iterdir() if not path.name.startswith("."))
