"""Which silent faults of weight loading are found, and by what: `python -m benchmarks.detection [--loads N]`.

Faults are put into one running engine of the demo's model by the gateway's own reload of a changed checkpoint (or by
vLLM's own, or inside its worker), and each is looked at by vLLM's checksums, against those of a right load, and by the
gateway's proof: `weak`, with a trainer's reference (float32, `client.probe_of`), with a computed one. A fault changes
answers when a token's probability changes by 0.1 or more in questions that no proof asks. Then come right loads, each
of which must pass. Two engine starts; about five minutes on two cores.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.answer_change import change
from benchmarks.detection_bench import Bench, model_at, recorded_of, write
from benchmarks.detection_table import Found, Seen, right_loads, table_of
from benchmarks.engine_faults import Step, engine_faults
from benchmarks.faults import tensor_faults
from benchmarks.lora_faults import adapter_faults
from benchmarks.processes import CHECKPOINT
from benchmarks.tokenizer_faults import tokenizer_faults
from gateway.engine import fork_server as engine_processes
from gateway.engine.engine import start
from gateway.engine.patches import environment
from stepserve.contract import Proof, Reference
from stepserve.reference_program import reference_of
from stepserve.settings import EngineSettings

Mixture = tuple[Path, Reference, Reference]  # a trainer's and a computed one

EARLIER = CHECKPOINT.with_name("step-0500")
_MIXTURES = 20  # different right checkpoints
_NEAREST, _FURTHEST = 0.02, 0.4  # shares of the earlier checkpoint in them


async def find(bench: Bench, recorded: Reference, computed: Reference) -> list[Found]:
    """All faults of an engine's weights, one after the other."""
    right, earlier = load_file(CHECKPOINT / "model.safetensors"), load_file(EARLIER / "model.safetensors")
    await bench.engine.reload(model_at(CHECKPOINT))
    answers, checksums = await bench.held_out.ask(bench.client), await bench.checksums()

    async def look(kind: str, where: str, again: Step) -> Found:
        now = await bench.held_out.ask(bench.client)
        has_other_sums = await bench.checksums() != checksums
        proofs = []
        for reference in (None, recorded, computed):
            await again()  # asking puts some faults right: a cache is filled anew
            proofs.append(await bench.engine.prove(reference))
        found = Found(kind, where, change(answers, now), has_other_sums, *(Seen.of(proof) for proof in proofs))
        print(found.line(), flush=True)
        return found

    found = await tokenizer_faults(bench, answers, recorded, computed)
    for fault in engine_faults(bench.engine, model_at(CHECKPOINT), model_at(EARLIER), bench.fill_cache):
        await fault.make()
        found.append(await look(fault.kind, fault.where, fault.make))
        await fault.mend()
    for each in tensor_faults(right, earlier):
        await bench.engine.reload(bench.checkpoint(each.make()))
        found.append(await look(each.kind, each.where, _nothing))
    return found


async def _nothing() -> None:
    pass


async def load_rightly(bench: Bench, mixtures: Sequence[Mixture], loads: int) -> list[tuple[Proof, Proof]]:
    """Different checkpoints in turn, each with references of its own: what the proofs of right loads find."""
    proofs = []
    for number in range(loads):
        path, recorded, computed = mixtures[number % len(mixtures)]
        await bench.engine.reload(model_at(path))
        proofs.append((await bench.engine.prove(recorded), await bench.engine.prove(computed)))
    return proofs


def mixtures_in(folder: Path, count: int) -> list[Mixture]:
    """Right checkpoints between the demo's last one and an earlier one, with a trainer's and a computed reference."""
    one, other = load_file(CHECKPOINT / "model.safetensors"), load_file(EARLIER / "model.safetensors")
    mixtures = []
    for number in range(count):
        share = _NEAREST + (_FURTHEST - _NEAREST) * number / _MIXTURES
        path = folder / f"mixture-{number}"
        if not path.exists():
            write({name: torch.lerp(one[name].float(), other[name].float(), share).bfloat16() for name in one}, path)
        mixtures.append((path, kept(path, recorded_of), kept(path, reference_of)))
    return mixtures


def kept(path: Path, make: Callable[[Path], Reference]) -> Reference:
    """Of the checkpoint at `path`: from a file beside it, where an earlier call has put it."""
    file = path.with_name(f"{path.name}-{make.__name__}.json")
    if not file.exists():
        file.write_text(make(path).model_dump_json())
    return Reference.model_validate_json(file.read_bytes())


async def proof_ms(bench: Bench, reference: Reference | None) -> float:
    times = []
    for _ in range(10):
        started = time.perf_counter()
        await bench.engine.prove(reference)
        times.append((time.perf_counter() - started) * 1e3)
    return fmean(sorted(times)[:5])


@asynccontextmanager
async def bench_of(folder: Path, settings: EngineSettings) -> AsyncIterator[Bench]:
    engine = await start(model_at(CHECKPOINT), settings, folder / "engine.log")
    try:
        yield Bench(engine, folder)
    finally:
        await engine.shutdown()


async def detect(folder: Path, mixtures: Sequence[Mixture], loads: int) -> None:
    started = time.perf_counter()
    computed = reference_of(CHECKPOINT)
    computed_s = time.perf_counter() - started
    recorded = recorded_of(CHECKPOINT)
    async with bench_of(folder, EngineSettings()) as bench:
        costs = [await proof_ms(bench, reference) for reference in (None, recorded, computed)]
        proofs = await load_rightly(bench, mixtures, loads)
        furthest = max(proof.mean_abs_diff or 0.0 for pair in proofs for proof in pair)
        print(f"{loads} right loads, the furthest {furthest:.4f} nats", flush=True)
        found = await find(bench, recorded, computed)
    async with bench_of(folder, EngineSettings(max_loras=2)) as bench:
        found += await adapter_faults(bench)
    console = Console(width=150)
    console.print(table_of(found))
    console.print(right_loads(proofs))
    console.print(
        f"A proof takes {costs[0]:.0f} ms (weak), {costs[1]:.0f} ms (a trainer's reference),"
        f" {costs[2]:.0f} ms (computed); computing the reference took {computed_s:.1f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=200, help="right loads that are proved; 200 unless given")
    parser.add_argument("--keep", type=Path, help="a folder for the right loads' references, for the next time")
    args = parser.parse_args()
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions are sent to the engine's worker
    environment.set_defaults(EngineSettings().max_num_seqs)
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder, suppress(KeyboardInterrupt):
        mixtures = mixtures_in(args.keep or Path(folder), min(_MIXTURES, args.loads))
        engine_processes.prepare()
        asyncio.run(detect(Path(folder), mixtures, args.loads))
    os._exit(0)  # vLLM's threads hold the interpreter


if __name__ == "__main__":
    main()
