"""Models and adapters that compute NaN, on real engines: `python -m tests.e2e.finite_run CHECKPOINT`.

They are refused at registration; here they get past it, as one would whose numbers overflow. Prints JSON.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import load_file, save_file

from gateway.engine import fork_server as engine_processes
from gateway.engine.engine import start
from gateway.engine.patches import environment as engine_environment
from gateway.errors import ProofFailed
from gateway.serving.adapter import attach
from gateway.serving.slot import Slot
from stepserve.contract import BatchItem, BatchSampling, ModelRef
from stepserve.settings import EnginePatches, EngineSettings
from tests.e2e.adapters import write_adapter

QUESTION = {"messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0, "max_tokens": 8}
_ASKED_MEANWHILE = 8


def spoil(file: Path) -> None:
    """One number of one tensor becomes NaN."""
    tensors = load_file(file)
    name = min(name for name in tensors if "layers.1" in name and tensors[name].dim() == 2)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file)


async def ask(app: Any, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=240) as http:
        asked = (
            {"model": "active", **body} if path != "/v1/chat/completions" else {"model": "active", **QUESTION, **body}
        )
        return await http.post(path, json=asked)


async def answer(app: Any) -> str:
    response = await ask(app)
    text: str = response.json()["choices"][0]["message"]["content"] if response.status_code == 200 else response.text
    return text


async def with_adapters(base: ModelRef, folder: Path, log: Path) -> dict[str, Any]:
    """An engine whose blocks nobody cleans, as with a GPU."""
    adapters = {}
    for name in ("bad", "sound"):
        write_adapter(folder / name, strength=0.0)
        adapters[name] = ModelRef(id=name, path=str(folder / name), digest=f"sha256:{name}", base=base)
    spoil(folder / "bad" / "adapter_model.safetensors")
    settings = EngineSettings(max_loras=2, patches=EnginePatches(clean_blocks="off"))
    slot, _ = await Slot.load(base, lambda model: start(model, settings, log), None)
    seen: dict[str, Any] = {"before": await answer(slot.engine.app)}
    try:
        await attach(slot, adapters["bad"], None)
    except ProofFailed as error:
        seen["refused"] = str(error)
    seen["after"] = [await answer(slot.engine.app) for _ in range(_ASKED_MEANWHILE)]
    adapter, proof = await attach(slot, adapters["sound"], None)
    seen["sound"] = [proof.passed, await answer(adapter.front.app)]
    await slot.shutdown()
    return seen


async def with_nan(good: ModelRef, bad: ModelRef, log: Path) -> dict[str, Any]:
    """An engine that begins with NaN, and gets a sound checkpoint in place without being cleared."""
    engine = await start(bad, EngineSettings(), log)
    seen: dict[str, Any] = {"proof": (await engine.prove(None)).model_dump()}
    plain = await ask(engine.app)
    streamed = await ask(engine.app, stream=True)
    several = await ask(engine.app, n=4, logprobs=True, temperature=1.0)
    scored = await ask(engine.app, "/v1/completions", prompt="1 2 3", max_tokens=1, prompt_logprobs=0)
    items = await engine.batch([BatchItem(prompt="17+25=", reference="42")], BatchSampling(max_tokens=200))
    seen |= {
        "statuses": [each.status_code for each in (plain, several, scored)],
        "message": plain.json()["error"]["message"],
        "events": [line for line in streamed.text.splitlines() if line],
        "item": items[0].model_dump(),
        "refused": engine.not_finite,
    }
    seen["left inside"] = len(engine.client.output_processor.request_states)
    await engine.reload(good)
    seen["then"] = [await answer(engine.app) for _ in range(_ASKED_MEANWHILE)]
    seen["refused then"] = engine.not_finite
    await engine.shutdown()
    return seen


async def run(checkpoint: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="stepserve-finite-") as name:
        folder = Path(name)
        log = folder / "engine.log"
        shutil.copytree(checkpoint, folder / "bad-model")
        spoil(folder / "bad-model" / "model.safetensors")
        good = ModelRef(id="good", path=str(checkpoint), digest="sha256:good")
        bad = ModelRef(id="bad", path=str(folder / "bad-model"), digest="sha256:bad")
        return {"adapters": await with_adapters(good, folder, log), "nan": await with_nan(good, bad, log)}


def main(checkpoint: Path) -> None:
    if engine_processes.for_gpu():
        print(json.dumps(None))
        return
    engine_environment.set_defaults(EngineSettings().max_num_seqs)
    engine_processes.prepare()
    print(json.dumps(asyncio.run(run(checkpoint))), flush=True)
    os._exit(0)  # vLLM's threads hold the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
