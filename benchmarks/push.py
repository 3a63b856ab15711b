"""`push_checkpoint` against rsync over loopback: `python -m benchmarks.push` (needs rsync; RSYNC names another one).

Each round has a checkpoint of new random bytes, sent by rsync to a daemon of its own (whole files, no compression) and
pushed to a real server, in turn. The figures are medians of the rounds' ratios of throughput: bytes alone (until the
server has proven the last one), and until it is a model (push, against rsync and then a registration). Then 5 % of the
tensors are changed and it is pushed once more: the share of its bytes that went over the wire. Last, the
latency of chats through the same server while a push runs, and while an rsync does, against that without either.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.load import Load, chat_load
from benchmarks.processes import CHECKPOINT, MODEL_ID, stepserve
from stepserve import Client

TENSOR_BYTES = 16 * 1024 * 1024
SHARD_TENSORS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stepserve-bench-push-") as folder,
        stepserve(proof_compute_max_bytes=0) as url,
    ):
        here = Path(folder)
        with rsync_daemon(here / "daemon") as target, Client(url) as client:
            models = Path(client.info()["models_dir"])
            bytes_ratios, model_ratios = [], []
            for number in range(args.rounds):
                source = make_checkpoint(here / f"round-{number}", args.megabytes * 1_000_000)
                size = sum(file.stat().st_size for file in source.iterdir())
                results = {}
                for name in ("rsync", "push") if number % 2 else ("push", "rsync"):
                    push = name == "push"
                    results[name] = by_push(source, client) if push else by_rsync(source, target, models, client)
                    alone_s, model_s = results[name]
                    rates = f"{size / alone_s / 1e6:7.0f} MB/s, as a model {size / model_s / 1e6:7.0f} MB/s"
                    print(f"round {number}  {name:5s} {rates}", flush=True)
                bytes_ratios.append(results["rsync"][0] / results["push"][0])
                model_ratios.append(results["rsync"][1] / results["push"][1])
                if number < args.rounds - 1:
                    shutil.rmtree(source)
            print(f"push / rsync, bytes alone:      {median(bytes_ratios):.2f}")
            print(f"push / rsync and registration:  {median(model_ratios):.2f}")
            again(source, client)
            beside_chats(here, url, target, args.megabytes)


def by_push(source: Path, client: Client) -> tuple[float, float]:
    arrived: list[float] = []

    def progress(there: int, total: int) -> None:
        if there == total:
            arrived.append(time.monotonic())

    started = time.monotonic()
    pushed = client.push_checkpoint(source, source.name, on_progress=progress)
    ended = time.monotonic()
    if pushed.sent_bytes < 0.99 * pushed.total_bytes:
        raise RuntimeError("the server had some of it already")
    return arrived[-1] - started, ended - started


def by_rsync(source: Path, target: str, models: Path, client: Client) -> tuple[float, float]:
    """As people do it: into the models folder, then a registration."""
    started = time.monotonic()
    subprocess.run([*rsync(), "-a", "--whole-file", f"{source}/", f"{target}/{source.name}/"], check=True)
    arrived = time.monotonic()
    landed = models / f"rsynced-{source.name}"
    (Path(_FOLDERS[target]) / source.name).rename(landed)
    registering = time.monotonic()
    client.register_model(landed.name)
    ended = time.monotonic()
    client.delete_model(landed.name, files=True)
    return arrived - started, arrived - started + ended - registering


def again(source: Path, client: Client) -> None:
    """A later checkpoint of the same run: 5 % of the tensors changed."""
    changed = 0
    for file in sorted(source.glob("*.safetensors")):
        with file.open("r+b") as stream:
            header_bytes = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(header_bytes))
            for number, entry in enumerate(header.values()):
                if number % 20 == 0:
                    stream.seek(8 + header_bytes + entry["data_offsets"][0])
                    stream.write(os.urandom(TENSOR_BYTES))
                    changed += 1
    pushed = client.push_checkpoint(source, f"{source.name}-later")
    share = pushed.sent_bytes / pushed.total_bytes
    print(f"a later push, {changed} tensors changed: {share:.1%} of the bytes sent, {pushed.seconds:.2f} s", flush=True)


def beside_chats(here: Path, url: str, target: str, megabytes: int) -> None:
    """Latency of chats while a checkpoint comes in, against the same chats alone; each sender is a process."""
    source = make_checkpoint(here / "beside", megabytes * 1_000_000)
    push = f"import stepserve; stepserve.Client({url!r}).push_checkpoint({str(source)!r}, 'beside')"
    senders = {
        "a push": [sys.executable, "-c", push],
        "an rsync": [*rsync(), "-a", "--whole-file", f"{source}/", f"{target}/beside/"],
    }
    chat_load(url, MODEL_ID, 4, 200)
    quiet = chat_load(url, MODEL_ID, 4, 400)
    for name, command in senders.items():
        sender = subprocess.Popen(command)
        loads = []
        while sender.poll() is None:
            loads.append(chat_load(url, MODEL_ID, 4, 20))
        if sender.returncode:
            raise RuntimeError(f"{name} failed")
        busy = Load.together(loads)
        ratios = [f"p{q * 100:.0f} {busy.latency_ms(q) / quiet.latency_ms(q):.2f}" for q in (0.5, 0.99)]
        print(f"chats while {name} runs: {', '.join(ratios)} of the latency without", flush=True)


def make_checkpoint(folder: Path, size_bytes: int) -> Path:
    """Random bytes in the layout of a sharded checkpoint; its config and tokenizer are the demo model's."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)
    count = max(1, size_bytes // TENSOR_BYTES)
    shards = [range(first, min(first + SHARD_TENSORS, count)) for first in range(0, count, SHARD_TENSORS)]
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header = {}
        for place, tensor in enumerate(shard):
            span = [place * TENSOR_BYTES, (place + 1) * TENSOR_BYTES]
            header[f"layer.{tensor}"] = {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": span}
            weight_map[f"layer.{tensor}"] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for _ in shard:
                stream.write(os.urandom(TENSOR_BYTES))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def rsync() -> list[str]:
    return [os.environ.get("RSYNC") or "rsync"]


_FOLDERS: dict[str, str] = {}


@contextlib.contextmanager
def rsync_daemon(folder: Path) -> Iterator[str]:
    """An rsync server on a free port; yields the URL of its one module."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder.with_suffix(".conf")
    config.write_text(
        f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n[in]\npath = {folder}\nread only = no\n"
    )
    command = [*rsync(), "--daemon", "--no-detach", f"--port={port}", f"--config={config}", "--address=127.0.0.1"]
    process = subprocess.Popen(command)
    url = f"rsync://127.0.0.1:{port}/in"
    _FOLDERS[url] = str(folder)
    try:
        while subprocess.run([*rsync(), url + "/"], capture_output=True, check=False).returncode:
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
