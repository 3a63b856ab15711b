"""Faults of LoRA adapters: an engine that answers with another version than it should, with none, or scaled wrongly.

Nothing is computed for adapters, so a proof has a trainer's reference: of the base with the adapter merged, in float32.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.answer_change import change
from benchmarks.detection_bench import Bench, model_at, recorded_of
from benchmarks.detection_table import Found, Seen
from benchmarks.processes import CHECKPOINT
from stepserve.contract import ModelRef, Reference

_RANK = 8
_STRENGTH = 0.02
ADAPTER_FAULTS = [("stale or wrong adapter", where) for where in ("an earlier version", "not applied", "scaled by 2")]
Matrices = dict[str, torch.Tensor]


async def adapter_faults(bench: Bench) -> list[Found]:
    earlier, right = _adapter(1.0), _adapter(1.3)
    written = {
        "earlier": _write(bench.folder / "adapter-earlier", earlier),
        "right": _write(bench.folder / "adapter-right", right),
        "twice": _write(bench.folder / "adapter-twice", right, alpha=2 * _RANK),
    }
    fronts: dict[str, Any] = {
        name: await bench.engine.attach(model) for name, model in written.items() if name != "twice"
    }
    reference: Reference = recorded_of(_merged(bench.folder / "merged", right))
    answers = await bench.held_out.ask(fronts["right"]._client)
    found = []

    async def look(fault: tuple[str, str], client: Any, prove: Any) -> None:
        kind, where = fault
        now = await bench.held_out.ask(client)
        seen = Seen.of(await prove(None)), Seen.of(await prove(reference)), None
        found.append(Found(kind, where, change(answers, now), None, *seen))

    proof = await fronts["right"].prove(reference)
    print(f"right adapter: {proof.mean_abs_diff} nats of {proof.tolerance}, passed: {proof.passed}", flush=True)
    await look(ADAPTER_FAULTS[0], fronts["earlier"]._client, fronts["earlier"].prove)
    await look(ADAPTER_FAULTS[1], bench.client, bench.engine.prove)
    await fronts["earlier"].detach()
    fronts["twice"] = await bench.engine.attach(written["twice"])
    await look(ADAPTER_FAULTS[2], fronts["twice"]._client, fronts["twice"].prove)
    return found


def _adapter(later: float) -> Matrices:
    """Of every attention matrix. `later` is how far a second part of it was trained."""
    chance = torch.Generator().manual_seed(0)
    matrices: Matrices = {}
    for name, weight in load_file(CHECKPOINT / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            place = f"base_model.model.{name.removesuffix('.weight')}"
            up, more = (torch.randn(weight.shape[0], _RANK, generator=chance) for _ in range(2))
            matrices[f"{place}.lora_A.weight"] = torch.randn(_RANK, weight.shape[1], generator=chance)
            matrices[f"{place}.lora_B.weight"] = _STRENGTH * (up + (later - 1.0) * more)
    return matrices


def _write(folder: Path, matrices: Matrices, alpha: int = _RANK) -> ModelRef:
    folder.mkdir()
    config = {
        "peft_type": "LORA", "base_model_name_or_path": "demo", "r": _RANK, "lora_alpha": alpha, "bias": "none",
        "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(matrices, folder / "adapter_model.safetensors")
    return model_at(folder).model_copy(update={"digest": f"sha256:{folder.name}", "base": model_at(CHECKPOINT)})


def _merged(folder: Path, matrices: Matrices) -> Path:
    shutil.copytree(CHECKPOINT, folder)
    tensors = {name: tensor.float() for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()}
    for name, down in matrices.items():
        if name.endswith("lora_A.weight"):
            up = matrices[name.replace("lora_A", "lora_B")]
            tensors[f"{name.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}.weight"] += up @ down
    save_file(tensors, folder / "model.safetensors")
    return folder
