"""SIGTERM to a server that is at work."""

import json
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from stepserve.client.events import EventReader
from tests.e2e.server import FINAL_ID, Server
from tests.eventually import wait_until

STREAMS = 64
LONG = {"model": FINAL_ID, "prompt": "7", "max_tokens": 500, "ignore_eos": True, "stream": True}
ENDLESS = {**LONG, "n": 4096}  # two million tokens: more than any CPU makes while the drain lasts


class _Stream:
    """A client that reads a stream to its end, whatever that is."""

    def __init__(self, url: str, body: dict[str, object]) -> None:
        self.begun = threading.Event()
        self._url, self._body = url, body

    def read(self) -> str:
        """`finished`, `error` (told so by the server), or `cut` (the connection is gone, maybe within an event)."""
        with httpx.Client(base_url=self._url, timeout=240, trust_env=False) as client:
            try:
                with client.stream("POST", "/v1/completions", json=self._body) as answer:
                    assert answer.status_code == 200
                    reader = EventReader()
                    for _, data in (event for piece in answer.iter_raw() for event in reader.feed(piece)):
                        self.begun.set()
                        if data == "[DONE]":
                            return "finished"
                        if "error" in json.loads(data):
                            return "error"
            except httpx.TransportError:
                pass
        return "cut"


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """Short streams may end whole, one that the drain does not wait for never looks complete, no sample is torn."""
    with Server(tmp_path, limits__max_sequences_per_request=4096) as server, ThreadPoolExecutor(STREAMS + 1) as pool:
        server.wait_ready()
        request = {"model_id": FINAL_ID, "name": "long", "dataset_ref": "math_eval.jsonl", "max_tokens": 256}
        job = server.http.post("/eval/jobs", json=request).raise_for_status().json()["job_id"]
        short = [_Stream(server.url, {**LONG, "max_tokens": 40}) for _ in range(STREAMS - 1)]
        reading = [pool.submit(stream.read) for stream in short]
        for stream in short:
            assert stream.begun.wait(240)
        endless = _Stream(server.url, ENDLESS)  # the last, as it takes every place in the engine that it finds
        reading.append(pool.submit(endless.read))
        assert endless.begun.wait(240)

        server.process.send_signal(signal.SIGTERM)
        wait_until("it is not ready", lambda: server.http.get("/readyz").status_code == 503, 240)
        assert server.http.get("/livez").status_code == 200
        refused = server.ask("1+1?")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "stopping" in refused.json()["error"]["message"]
        assert server.process.wait(240) == 0

        ended = [each.result(240) for each in reading]
        assert "finished" in ended[:-1]
        assert ended[-1] in {"error", "cut"}, "what the drain did not wait for never looks complete"

    with sqlite3.connect(tmp_path / "db.sqlite") as database:
        status, done = database.execute("SELECT status, progress_done FROM jobs WHERE id = ?", (job,)).fetchone()
    database.close()
    assert status in ("pending", "done")
    samples = tmp_path / "runs" / "eval" / job / "samples.jsonl"
    whole = [json.loads(line) for line in samples.read_text().splitlines()] if samples.exists() else []
    assert len(whole) >= done  # nothing that was counted is lost, and no line is half a sample


def test_sigterm_with_nothing_in_flight_does_not_wait(tmp_path: Path) -> None:
    with Server(tmp_path, drain_timeout_s=60) as server:
        wait_until("it is alive", lambda: _alive(server), 240.0)
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(240) == 0
        assert time.monotonic() - told < 30


def _alive(server: Server) -> bool:
    try:
        return server.http.get("/livez").status_code == 200
    except httpx.TransportError:
        return False
