"""Experiment trackers as they are: an MLflow server, and the files of TensorBoard, trackio and W&B."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.environments import python_with
from tests.e2e.server import REPOSITORY, free_port
from tests.eventually import wait_until

pytestmark = pytest.mark.long

PROGRAM = "control.notifications.trackers.program"
LIMIT_S = 240.0
NAME = "math_eval/accuracy"

READERS = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(folder + "/evals"); read.Reload()
found = [[one.step, one.value] for one in read.Scalars(name)]
""",
    "trackio": """
import os; os.environ["TRACKIO_DIR"] = folder
from trackio import SQLiteStorage
found = [[one["step"], one[name]] for one in SQLiteStorage.get_logs("p", "evals")]
""",
    "wandb": """
import glob, struct
from wandb.proto import wandb_internal_pb2 as proto

def records(data):
    # LevelDB's log format after a header of 7 bytes: blocks of 32 KiB; of each piece checksum, length and kind.
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

found = []
for path in sorted(glob.glob(folder + "/wandb/offline-run-*/*.wandb")):
    for data in records(open(path, "rb").read()):
        record = proto.Record(); record.ParseFromString(data)
        if record.HasField("history"):
            values = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            found.append([values["training_step"], values[name]])
""",
}


def entry(step: int, value: float) -> dict[str, Any]:
    metrics = {NAME: value, "math_eval/pass@1": value}
    return {
        "run": "evals", "step": step, "metrics": metrics, "at_s": 1_700_000_000.0 + step, "event_id": f"job.{step}",
        "model_id": f"step-{step}",
    }  # fmt: skip


def log(python: Path, tracker: str, folder: Path, options: Mapping[str, str], *entries: dict[str, Any]) -> None:
    """Each in a process of its own, as control does it."""
    for one in entries:
        asked = {"tracker": tracker, "options": options, "folder": str(folder), "hosts": ["127.0.0.1"], "entry": one}
        ended = subprocess.run(
            [str(python), "-m", PROGRAM],
            input=json.dumps(asked) + "\n",
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            check=True,
        )
        assert json.loads(ended.stdout) == {"error": None}, ended.stderr


def read(python: Path, tracker: str, folder: Path) -> Any:
    code = f"import json\nfolder, name = {str(folder)!r}, {NAME!r}\n{READERS[tracker]}\nprint(json.dumps(found))"
    ended = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def test_their_files_have_the_curves(tmp_path: Path) -> None:
    python = python_with("trackers")

    def curve(tracker: str) -> Any:
        options = {} if tracker == "tensorboard" else {"project": "p"}
        log(python, tracker, tmp_path / tracker, options, entry(200, 0.5), entry(100, 0.25))
        return read(python, tracker, tmp_path / tracker)

    with ThreadPoolExecutor() as beside:
        found = dict(zip(READERS, beside.map(curve, READERS), strict=True))
    for tracker, points in found.items():
        assert sorted(points) == [[100, 0.25], [200, 0.5]], tracker


@contextmanager
def mlflow_server(python: Path, folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    command = [str(python), "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env=environment, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240) as http:

            def is_up() -> bool:
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    return http.get("/health").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until("MLflow answers", is_up, LIMIT_S)
            yield http
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def test_an_mlflow_server_shows_the_curve_once(tmp_path: Path) -> None:
    python = python_with("trackers")
    with mlflow_server(python, tmp_path) as http:
        options = {"url": str(http.base_url), "experiment": "ours (7%)", "run": "evals"}
        again = entry(200, 0.5)
        log(python, "mlflow", tmp_path / "none", options, again, entry(100, 0.25), again)
        found = http.post("/api/2.0/mlflow/experiments/search", json={"filter": "name LIKE 'ours%'", "max_results": 5})
        (experiment,) = found.json()["experiments"]
        wanted = {"experiment_ids": [experiment["experiment_id"]], "max_results": 5}
        (run,) = http.post("/api/2.0/mlflow/runs/search", json=wanted).json()["runs"]
        assert run["info"]["run_name"] == "evals"
        assert {one["key"] for one in run["data"]["metrics"]} == {NAME, "math_eval/pass_1"}
        asked = {"run_id": run["info"]["run_id"], "metric_key": NAME}
        history = http.get("/api/2.0/mlflow/metrics/get-history", params=asked).json()["metrics"]
        assert sorted((one["step"], one["value"], one["timestamp"]) for one in history) == [
            (100, 0.25, 1_700_000_100_000), (200, 0.5, 1_700_000_200_000),
        ]  # fmt: skip
