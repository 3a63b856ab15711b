"""How far rounding alone moves what a model says: `python -m benchmarks.rounding [KIND …]`.

By transformers, on the CPU, without an engine: each checkpoint in float32 against itself computed in bfloat16 or
float16, and against itself with its matrices rounded as a quantised checkpoint's are (to the nearest, a scale for each
row or group, no calibration; methods that calibrate do better). In nats, on average over the tokens of its own
reference. What a proof allows for each (gateway/serving/proof_tolerance.py) stands above the largest.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.processes import CHECKPOINT
from benchmarks.tiny_checkpoints import KINDS, build
from stepserve.difference import compare
from stepserve.reference_program import reference_of

Rounding = Callable[[torch.Tensor], torch.Tensor]

_FP8_MOST = 448.0  # of e4m3
_DTYPES = (torch.bfloat16, torch.float16)


def to_integers(bits: int, group: int | None = None) -> Rounding:
    """Symmetric, with a scale for each `group` of a row's elements, or for each row."""
    most = 2 ** (bits - 1) - 1

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        groups = weight.float().reshape(-1, group if group and weight.shape[-1] % group == 0 else weight.shape[-1])
        scale = groups.abs().amax(1, keepdim=True).clamp_min(1e-12) / most
        return ((groups / scale).round().clamp(-most, most) * scale).reshape(weight.shape).to(weight.dtype)

    return rounded


def to_fp8(weight: torch.Tensor) -> torch.Tensor:
    """e4m3, with a scale for each row."""
    scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / _FP8_MOST
    return ((weight.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(weight.dtype)


ROUNDINGS: dict[str, Rounding] = {
    "int8 a row": to_integers(8),
    "fp8 a row": to_fp8,
    "int4 groups of 32": to_integers(4, 32),
    "int4 groups of 128": to_integers(4, 128),
}


def rounded_matrices(model: Any, rounding: Rounding) -> None:
    """Rounds, in place, the weights that quantised checkpoints round: matrices but for embeddings, head and routers."""
    kept = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and id(weight) not in kept and not any(word in name for word in ("router", "conv1d")):
                weight.copy_(rounding(weight))


def noise_of(path: Path) -> dict[str, float]:
    """By column, in nats."""
    reference = reference_of(path)
    assert reference.prompt_token_ids is not None

    def apart(dtype: torch.dtype, rounding: Rounding | None = None) -> float:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True).eval()
        if rounding is not None:
            rounded_matrices(model, rounding)
        return compare(_said(model, reference.prompt_token_ids or []), reference.logprobs).mean

    found = {str(dtype).removeprefix("torch."): apart(dtype) for dtype in _DTYPES}
    return found | {name: apart(torch.float32, rounding) for name, rounding in ROUNDINGS.items()}


def _said(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    rows = []
    with torch.inference_mode():
        for token_ids in prompts:
            tokens = torch.tensor(token_ids)
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
            rows.append(torch.log_softmax(logits, dim=-1).gather(1, tokens[1:, None])[:, 0].tolist())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)}")
    kinds = parser.parse_args().kinds
    rows: list[dict[str, float]] = []
    table = Table("checkpoint", "bfloat16", "float16", *ROUNDINGS)
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        paths = {each.name: each for each in sorted(CHECKPOINT.parent.iterdir())}
        for name in [*paths, *kinds]:
            path = paths.get(name) or build(name, 1, Path(folder) / name.replace(" ", "-"))
            rows.append(noise_of(path))
            table.add_row(name, *(f"{value:.4f}" for value in rows[-1].values()))
            print(name, *(f"{value:.4f}" for value in rows[-1].values()), flush=True)
    for word, of in (("mean", fmean), ("most", max)):
        table.add_row(word, *(f"{of(row[column] for row in rows):.4f}" for column in rows[0]))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
