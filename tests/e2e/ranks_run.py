"""An engine of two ranks, one of which fails: `python -m tests.e2e.ranks_run EARLY FINAL`. Prints JSON."""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from gateway.engine import config, fork_server
from gateway.engine.engine import Engine, start
from gateway.engine.patches import environment
from gateway.engine.proof import WEAK_PROMPTS, logprobs_of
from gateway.errors import EngineReloadFailed
from stepserve.contract import ModelRef, Reference
from stepserve.settings import EngineSettings
from tests.e2e import faulty_rank

TWO_RANKS = EngineSettings(args={"tensor_parallel_size": 2})


def model_at(path: Path) -> ModelRef:
    return ModelRef(id=path.name, path=str(path), digest=f"sha256:{path.name}")


async def reference_of(engine: Engine) -> Reference:
    """What the engine itself says, which other weights must not."""
    tokenizer = engine.client.renderer.get_tokenizer()
    prompts = [tokenizer.encode(prompt) for prompt in WEAK_PROMPTS]
    return Reference(
        kind="computed", prompt_token_ids=prompts, logprobs=await logprobs_of(engine.client, prompts), noise=0.02
    )


async def run(early: Path, final: Path, folder: Path) -> dict[str, Any]:
    names = {}
    for name in (faulty_rank.UNREAD, faulty_rank.UNREADABLE):
        names[name] = folder / name
        names[name].symlink_to(final)
    config.WORKER_EXTENSION = "tests.e2e.faulty_rank.FaultyRankWorker"
    engine = await start(model_at(final), TWO_RANKS, folder / "engine.log")
    reference = await reference_of(engine)
    pids = await engine.client.collective_rpc("stepserve_pid")
    seen: dict[str, Any] = {"pids": pids, "fresh": (await engine.prove(reference)).passed}

    await engine.reload(model_at(early))
    seen["other weights"] = (await engine.prove(reference)).passed
    await engine.reload(model_at(names[faulty_rank.UNREAD]))
    seen["one shard"] = (await engine.prove(reference)).model_dump()
    seen["why not ready"] = await engine.stage(model_at(final), reference)
    await engine.reload(model_at(final))
    seen["all shards"] = (await engine.prove(reference)).model_dump()

    try:
        await engine.reload(model_at(names[faulty_rank.UNREADABLE]))
    except EngineReloadFailed as error:
        seen["failed"] = str(error)
    seen["pids then"] = await engine.client.collective_rpc("stepserve_pid")
    await engine.reload(model_at(final))
    seen["back"] = (await engine.prove(reference)).passed
    await engine.shutdown()
    seen["left"] = [pid for pid in pids if Path(f"/proc/{pid}").exists() and _lives(pid)]
    return seen


def _lives(pid: int) -> bool:
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def main(early: str, final: str) -> None:
    if fork_server.for_gpu() or len(os.sched_getaffinity(0)) < 2:
        print(json.dumps(None))
        return
    environment.set_defaults(64)
    fork_server.prepare()
    with tempfile.TemporaryDirectory(prefix="stepserve-ranks-") as name:
        print(json.dumps(asyncio.run(run(Path(early), Path(final), Path(name)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
