"""The engine that faults are put into, and what it is asked."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.faults import Tensors
from benchmarks.held_out import HeldOut
from benchmarks.processes import CHECKPOINT
from gateway.engine.engine import Engine
from stepserve.client.probe import probe_of
from stepserve.contract import ModelRef, Proof, Reference


class Bench:
    """An engine, and what is asked of it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.client: Any = engine.client
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
        self.held_out = HeldOut(self.tokenizer)

    def checkpoint(self, tensors: Tensors) -> ModelRef:
        """A copy of the demo's with other tensors, in place of the one before."""
        return model_at(write(tensors, self.folder / "changed"))

    async def fill_cache(self) -> None:
        """With all questions, and with what a proof asks."""
        await self.held_out.ask(self.client)
        await self.engine.prove(None)

    async def checksums(self) -> object:
        return await self.client.compute_weight_checksums()

    async def proofs(self, recorded: Reference, computed: Reference) -> tuple[Proof, Proof, Proof]:
        """Weak, and by the trainer's and the computed reference."""
        prove = self.engine.prove
        return await prove(None), await prove(recorded), await prove(computed)


def write(tensors: Tensors, path: Path) -> Path:
    """A copy of the demo's checkpoint with other tensors. Returns `path`."""
    shutil.copytree(CHECKPOINT, path, dirs_exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def model_at(path: Path) -> ModelRef:
    return ModelRef(id=path.name, path=str(path), digest="sha256:0")


def recorded_of(path: Path) -> Reference:
    """As a trainer sends it that has the model in float32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    probe = probe_of(model, AutoTokenizer.from_pretrained(path, local_files_only=True))
    return Reference(kind="reference", **(probe or {}))
