"""What a switch in place carries over, by architecture: `python -m benchmarks.architectures`.

For each kind of tiny random checkpoint, two of them: one is loaded by a fresh engine and the other put in its place,
and then loaded by a fresh engine of its own. Shown are mean differences of log-probabilities, in nats, over the tokens
that a proof compares: fresh engine and transformers in float32 (rounding, and so what a tolerance must allow; also as a
share of what bfloat16 does to the same checkpoint in transformers), in place and fresh engine (what a reload leaves
behind, of files and of what was made ready beforehand), and the one model and the other (what a proof must find).
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.tiny_checkpoints import KINDS, build
from gateway.engine import fork_server
from gateway.engine.engine import Engine, start
from gateway.engine.patches import environment
from gateway.engine.proof import logprobs_of
from gateway.errors import EngineReloadFailed, EngineStartFailed
from stepserve.contract import ModelRef, Reference
from stepserve.difference import Difference, compare
from stepserve.reference_program import reference_of
from stepserve.settings import EngineSettings

_COLUMNS = (
    "kind",
    "fresh/transformers",
    "of what bfloat16 does",
    "in place/fresh",
    "made ready/fresh",
    "one/other",
    "tokens compared",
    "of",
    "result",
)


async def measure(kind: str, folder: Path, log: Path) -> Sequence[str]:
    paths = [build(kind, seed, folder / f"{kind.replace(' ', '-')}-{seed}") for seed in (1, 2)]
    try:
        references = [await asyncio.to_thread(reference_of, path) for path in paths]
    except (ValueError, RuntimeError, ImportError) as error:
        return (kind, "", "", "", "", "", "", "", f"transformers: {error}")
    models = [ModelRef(id=path.name, path=str(path), digest="sha256:0") for path in paths]
    try:
        first = await start(models[0], EngineSettings(), log)
    except EngineStartFailed as error:
        return (kind, "", "", "", "", "", "", "", str(error))
    result = "in place"
    in_place: list[list[float]] | None = None
    ready: list[list[float]] | None = None
    try:
        before = await _said(first, references[1])
        try:
            await first.reload(models[1])
            in_place = await _said(first, references[1])
            await first.reload(models[0])
            if (why := await first.stage(models[1], None)) is None:
                await first.reload(models[1])
                ready = await _said(first, references[1])
            else:
                result = f"not made ready: {why}"
        except EngineReloadFailed as error:
            result = str(error)
    finally:
        await first.shutdown()
    second = await start(models[1], EngineSettings(), log)
    try:
        fresh = await _said(second, references[1])
    finally:
        await second.shutdown()
    noise = compare(fresh, references[1].logprobs)
    moved = compare(in_place, fresh) if in_place is not None else None
    staged = compare(ready, fresh) if ready is not None else None
    other = compare(before, references[1].logprobs)
    tokens = sum(len(row) for row in references[1].logprobs)
    return (
        kind,
        f"{noise.mean:.4f}",
        f"{noise.mean / references[1].noise:.2f}" if references[1].noise else "-",
        f"{moved.mean:.4f}" if moved else "-",
        f"{staged.mean:.4f}" if staged else "-",
        f"{other.mean:.3f}",
        str(noise.tokens),
        str(tokens),
        _verdict(result, moved, staged),
    )


def _verdict(result: str, moved: Difference | None, staged: Difference | None) -> str:
    if moved is None:
        return result
    exact = moved.mean == 0 and (staged is None or staged.mean == 0)
    words = "exact" if exact else "NOT EXACT"
    return words if staged is not None else f"{words}; {result}"


async def _said(engine: Engine, reference: Reference) -> list[list[float]]:
    assert reference.prompt_token_ids is not None
    return await logprobs_of(engine.client, reference.prompt_token_ids)


async def measure_all(kinds: Sequence[str], folder: Path) -> None:
    shown = Table(*_COLUMNS)
    for kind in kinds:
        row = await measure(kind, folder, folder / "engine.log")
        print("   ".join(row), flush=True)
        shown.add_row(*row)
    Console(width=160).print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)}")
    args = parser.parse_args()
    environment.set_defaults(EngineSettings().max_num_seqs)
    fork_server.prepare()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder, suppress(KeyboardInterrupt):
        asyncio.run(measure_all(args.kinds, Path(folder)))
    os._exit(0)  # vLLM's threads hold the interpreter


if __name__ == "__main__":
    main()
