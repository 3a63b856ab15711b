"""MLflow by its REST API 2.0 (https://mlflow.org/docs/latest/rest-api.html): nothing of MLflow is needed here.

A run in an experiment, both found by name, and made where there are none. MLflow keeps a metric's value once for each
time, step and value: an entry that comes twice is there once.
"""

import asyncio
import base64
import json
import os
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from control.notifications.trackers.entry import Destination, Entry
from control.notifications.trackers.known import DEFAULT_RUN
from stepserve.outbound import Outbound

_API = "/api/2.0/mlflow"
_TIMEOUT_S = 30.0
_MAX_BYTES = 4 * 1024 * 1024
_RUN_TAG = "stepserve.run"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_\-. :/]")


class NotLogged(Exception):
    pass


def log(there: Destination, entry: Entry) -> None:
    """Raises NotLogged, OutboundError."""
    asyncio.run(_log(there.options, entry, there.hosts))


async def _log(options: Mapping[str, str], entry: Entry, hosts: Collection[str]) -> None:
    named = (urlsplit(options["url"]).hostname or "").lower() in hosts
    async with Outbound(
        options["url"],
        headers=credentials(options["url"]),
        total_timeout_s=_TIMEOUT_S,
        max_bytes=_MAX_BYTES,
        named=named,
    ) as server:
        experiment = await _experiment(server, options.get("experiment", DEFAULT_RUN))
        run = await _run(server, experiment, entry)
        at_ms = int(entry.at_s * 1000)
        metrics = [
            {"key": _NOT_IN_A_NAME.sub("_", name), "value": value, "timestamp": at_ms, "step": entry.step}
            for name, value in entry.metrics.items()
        ]
        tags = [{"key": "stepserve.model", "value": entry.model_id}]
        await _ask(server, "runs/log-batch", {"run_id": run, "metrics": metrics, "tags": tags})


async def _experiment(server: Outbound, name: str) -> str:
    found = await _experiment_named(server, name)
    if found is not None:
        return found
    made = await server.post(f"{_API}/experiments/create", {"name": name})
    if made.status == 200:
        return str(json.loads(made.content)["experiment_id"])
    found = await _experiment_named(server, name)  # made by somebody else meanwhile
    if found is None:
        raise NotLogged(f"MLflow has no experiment {name!r}, and answered {made.status} to making one")
    return found


async def _experiment_named(server: Outbound, name: str) -> str | None:
    wanted = {"filter": f"name = '{name}'", "max_results": 1}
    found = (await _ask(server, "experiments/search", wanted)).get("experiments", [])
    return str(found[0]["experiment_id"]) if found else None


async def _run(server: Outbound, experiment: str, entry: Entry) -> str:
    wanted = {
        "experiment_ids": [experiment],
        "filter": f"tags.`{_RUN_TAG}` = '{entry.run}'",
        "max_results": 1,
        "order_by": ["attributes.start_time ASC"],
    }
    found = (await _ask(server, "runs/search", wanted)).get("runs", [])
    if not found:
        tags = [{"key": _RUN_TAG, "value": entry.run}, {"key": "mlflow.runName", "value": entry.run}]
        new = {"experiment_id": experiment, "start_time": int(entry.at_s * 1000), "tags": tags}
        found = [(await _ask(server, "runs/create", new))["run"]]
    return str(found[0]["info"]["run_id"])


async def _ask(server: Outbound, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = await server.post(f"{_API}/{path}", body)
    if answer.status != 200:
        raise NotLogged(f"MLflow answered {answer.status} to {path}")
    content: dict[str, Any] = json.loads(answer.content)
    return content


def credentials(url: str) -> dict[str, str]:
    """Headers, from the variables of MLflow's own client; for the server alone that MLFLOW_TRACKING_URI names."""
    if _server_of(url) != _server_of(os.environ.get("MLFLOW_TRACKING_URI", "")):
        return {}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"authorization": f"Bearer {token}"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {}


def _server_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
