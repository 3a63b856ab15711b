"""Which silent faults of weight loading are found, and by what: `python -m benchmarks.detection [--loads N]`.

Faults are put into one running engine of the demo's model by the gateway's own reload of a changed checkpoint (or by
vLLM's own, or inside its worker), and each is looked at by vLLM's checksums, against those of a right load, and by the
gateway's proof: `weak`, with a trainer's reference (float32, `client.probe_of`), with a computed one. A fault changes
answers when a token's probability changes by 0.1 or more in questions that no proof asks. Right loads must pass. Two
engine starts; about four minutes on two cores, or in pieces: `--results found.jsonl --keep folder --minutes 3`, as
often as it says that something is left.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.answer_change import change
from benchmarks.detection_bench import Bench, model_at, recorded_of, write
from benchmarks.detection_record import Record
from benchmarks.detection_table import Found, Seen, right_loads, table_of
from benchmarks.engine_faults import EngineFault, engine_faults
from benchmarks.faults import Fault, tensor_faults
from benchmarks.lora_faults import ADAPTER_FAULTS, adapter_faults
from benchmarks.processes import CHECKPOINT
from benchmarks.tokenizer_faults import TOKENIZER_FAULTS, tokenizer_faults
from gateway.engine import fork_server as engine_processes
from gateway.engine.engine import start
from gateway.engine.patches import environment
from stepserve.contract import Reference
from stepserve.reference_program import reference_of
from stepserve.settings import EngineSettings

Mixture = tuple[Path, Reference, Reference]  # a trainer's and a computed one

EARLIER = CHECKPOINT.with_name("step-0500")
_MIXTURES = 20  # different right checkpoints
_NEAREST, _FURTHEST = 0.02, 0.4  # shares of the earlier checkpoint in them


async def find(bench: Bench, recorded: Reference, computed: Reference, record: Record) -> None:
    """Those faults of an engine's weights that `record` lacks, one after the other, while there is time."""
    await bench.engine.reload(model_at(CHECKPOINT))
    answers, checksums = await bench.held_out.ask(bench.client), await bench.checksums()
    if not record.has_all(TOKENIZER_FAULTS):
        for found in await tokenizer_faults(bench, answers, recorded, computed):
            record.add(found)
    for fault in faults_of(bench):
        if record.is_over:
            return
        if record.has(fault.kind, fault.where):
            continue
        await fault.make()
        now = await bench.held_out.ask(bench.client)
        has_other_sums = await bench.checksums() != checksums
        seen = []
        for reference in (None, recorded, computed):
            await fault.again()  # asking puts some faults right: a cache is filled anew
            seen.append(Seen.of(await bench.engine.prove(reference)))
        await fault.mend()
        record.add(Found(fault.kind, fault.where, change(answers, now), has_other_sums, *seen))


def faults_of(bench: Bench) -> Iterator[EngineFault]:
    yield from engine_faults(bench.engine, model_at(CHECKPOINT), model_at(EARLIER), bench.fill_cache)
    right, earlier = load_file(CHECKPOINT / "model.safetensors"), load_file(EARLIER / "model.safetensors")
    for fault in tensor_faults(right, earlier):

        async def make(fault: Fault = fault) -> None:
            await bench.engine.reload(bench.checkpoint(fault.make()))

        yield EngineFault(fault.kind, fault.where, make)


async def load_rightly(bench: Bench, mixtures: Sequence[Mixture], loads: int, record: Record) -> None:
    """Different checkpoints in turn, each with references of its own, until `record` has so many."""
    while len(record.loads) < loads and not record.is_over:
        path, recorded, computed = mixtures[len(record.loads) % len(mixtures)]
        await bench.engine.reload(model_at(path))
        record.add_load((await bench.engine.prove(recorded), await bench.engine.prove(computed)))


def mixtures_in(folder: Path, count: int) -> list[Mixture]:
    """Right checkpoints between the demo's last one and an earlier one, with a trainer's and a computed reference."""
    one, other = load_file(CHECKPOINT / "model.safetensors"), load_file(EARLIER / "model.safetensors")
    mixtures = []
    for number in range(count):
        share = _NEAREST + (_FURTHEST - _NEAREST) * number / _MIXTURES
        path = folder / f"mixture-{number}"
        if not path.exists():
            write({name: torch.lerp(one[name].float(), other[name].float(), share).bfloat16() for name in one}, path)
        mixtures.append((path, kept(path, recorded_of, folder), kept(path, reference_of, folder)))
    return mixtures


def kept(path: Path, make: Callable[[Path], Reference], folder: Path) -> Reference:
    """Of the checkpoint at `path`: from a file in `folder`, where an earlier call has put it."""
    file = folder / f"{path.name}-{make.__name__}.json"
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


async def detect(folder: Path, mixtures: Sequence[Mixture], references: Path, loads: int, record: Record) -> None:
    if not record.costs:
        started = time.perf_counter()
        reference_of(CHECKPOINT)
        computed_s = time.perf_counter() - started
    recorded, computed = (kept(CHECKPOINT, make, references) for make in (recorded_of, reference_of))
    async with bench_of(folder, EngineSettings()) as bench:
        if not record.costs:
            costs = [await proof_ms(bench, reference) for reference in (None, recorded, computed)]
            record.add_costs(
                f"A proof takes {costs[0]:.0f} ms (weak), {costs[1]:.0f} ms (a trainer's reference),"
                f" {costs[2]:.0f} ms (computed); computing the reference took {computed_s:.1f} s."
            )
        await load_rightly(bench, mixtures, loads, record)
        await find(bench, recorded, computed, record)
    if not record.is_over and not record.has_all(ADAPTER_FAULTS):
        async with bench_of(folder, EngineSettings(max_loras=2)) as bench:
            for found in await adapter_faults(bench):
                record.add(found)
    console = Console(width=150)
    console.print(table_of(record.found))
    console.print(right_loads(record.loads))
    console.print(record.costs)
    if record.is_over:
        console.print("The time was over: something is left.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=200, help="right loads that are proved; 200 unless given")
    parser.add_argument("--keep", type=Path, help="a folder for the references, for the next time")
    parser.add_argument("--results", type=Path, help="a file of JSON lines to go on from and to append to")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="how long to go on; to the end unless given"
    )
    args = parser.parse_args()
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions are sent to the engine's worker
    environment.set_defaults(EngineSettings().max_num_seqs)
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder, suppress(KeyboardInterrupt):
        keep = args.keep or Path(folder) / "references"
        keep.mkdir(exist_ok=True)
        mixtures = mixtures_in(keep, min(_MIXTURES, args.loads))
        engine_processes.prepare()
        record = Record(args.results, args.minutes * 60.0)
        asyncio.run(detect(Path(folder), mixtures, keep, args.loads, record))
    os._exit(0)  # vLLM's threads hold the interpreter


if __name__ == "__main__":
    main()
