"""The store of references, and the making of missing ones with a program that is told what to do."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.errors import CheckpointBroken, ReferenceFailed
from control.models.reference_maker import ReferenceMaker
from control.models.references import References
from stepserve.contract import Reference
from tests.unit.control.checkpoint_files import weights, write_checkpoint, write_shard

A, B, C = "sha256:aa", "sha256:bb", "sha256:cc"
TRAINERS = Reference(kind="reference", prompts=["a"], logprobs=[[-1.0]])
COMPUTED = Reference(kind="computed", prompt_token_ids=[[1, 2]], logprobs=[[-2.0]])


class Computer:
    """Waits for `may_go`; `asked` is in the order of the calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun = asyncio.Event()
        self.may_go = asyncio.Event()
        self.fails = False

    async def __call__(self, path: Path, digest: str) -> Reference:
        self.asked.append(digest)
        self.begun.set()
        await self.may_go.wait()
        if self.fails:
            raise ReferenceFailed("no")
        return COMPUTED


@asynccontextmanager
async def references(folder: Path, computer: Computer) -> AsyncIterator[References]:
    store = References(folder, computer, compute_max_bytes=100)
    task = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.wait({task})


def want(store: References, digest: str, weights_bytes: int = 99, quantization: str | None = None) -> None:
    store.want(digest, Path("/x"), weights_bytes=weights_bytes, quantization=quantization)


async def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    async with references(tmp_path, Computer()) as store:
        await store.put(A, TRAINERS)
    async with references(tmp_path, Computer()) as store:
        assert await store.reference_for(A, wait_s=0) == TRAINERS
        assert await store.reference_for(B, wait_s=5) is None
        await store.forget(A)
        assert await store.stored(A) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"kind": "guess", "logprobs": []}'])
async def test_a_broken_file_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "aa.json").write_text(content)
    async with references(tmp_path, Computer()) as store:
        assert await store.stored(A) is None


async def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    async with references(tmp_path / "gone", Computer()) as store:
        with pytest.raises(ReferenceFailed, match="cannot be written"):
            await store.put(A, TRAINERS)


async def test_one_that_is_being_computed_is_waited_for(tmp_path: Path) -> None:
    computer = Computer()
    async with references(tmp_path, computer) as store:
        want(store, A)
        await computer.begun.wait()
        assert await store.reference_for(A, wait_s=0) is None
        assert await store.reference_for(A, wait_s=0.01) is None
        waiting = asyncio.create_task(store.reference_for(A, wait_s=30))
        computer.may_go.set()
        assert await waiting == COMPUTED
        assert computer.asked == [A]


async def test_one_that_somebody_waits_for_comes_first(tmp_path: Path) -> None:
    computer = Computer()
    async with references(tmp_path, computer) as store:
        for digest in (A, B, C):
            want(store, digest)
        await computer.begun.wait()
        assert await store.reference_for(C, wait_s=0.01) is None
        waiting = [asyncio.create_task(store.reference_for(digest, wait_s=30)) for digest in (A, B, C)]
        computer.may_go.set()
        assert await asyncio.gather(*waiting) == [COMPUTED] * 3
        assert computer.asked[0] == A
        assert sorted(computer.asked) == [A, B, C]


async def test_a_trainers_reference_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    computer = Computer()
    async with references(tmp_path, computer) as store:
        want(store, A)
        await computer.begun.wait()
        waiting = asyncio.create_task(store.reference_for(A, wait_s=30))
        await store.put(A, TRAINERS)
        assert await waiting == TRAINERS
        computer.may_go.set()
        want(store, B)
        assert await store.reference_for(B, wait_s=30) == COMPUTED
        assert await store.stored(A) == TRAINERS
        want(store, A)
        assert await store.reference_for(A, wait_s=30) == TRAINERS
        assert computer.asked == [A, B], "what is there is not computed"


async def test_a_failure_is_not_repeated(tmp_path: Path) -> None:
    computer = Computer()
    computer.fails = True
    computer.may_go.set()
    async with references(tmp_path, computer) as store:
        want(store, A)
        assert await store.reference_for(A, wait_s=30) is None
        want(store, A)
        assert await store.reference_for(A, wait_s=30) is None
        assert computer.asked == [A]


async def test_what_is_not_computed(tmp_path: Path) -> None:
    computer = Computer()
    async with references(tmp_path, computer) as store:
        want(store, A, weights_bytes=100)
        want(store, B, quantization="awq")
        for digest in (A, B):
            assert await store.reference_for(digest, wait_s=30) is None
        assert computer.asked == []


async def test_why_there_is_none(tmp_path: Path) -> None:
    computer = Computer()
    computer.fails = True
    async with references(tmp_path, computer) as store:
        want(store, A, weights_bytes=100)
        want(store, B, quantization="awq")
        want(store, C)
        assert "proof_compute_max_bytes" in store.why_missing(A)
        assert "awq" in store.why_missing(B)
        assert "being computed" in store.why_missing(C)
        computer.may_go.set()
        assert await store.reference_for(C, wait_s=30) is None
        assert store.why_missing(C) == "computing one failed: no"
        assert "none was sent" in store.why_missing("sha256:dd")


async def test_a_broken_checkpoint_is_refused_to_whoever_asks(tmp_path: Path) -> None:
    async def compute(path: Path, digest: str) -> Reference:
        raise CheckpointBroken("no weights for k_proj")

    store = References(tmp_path, compute, compute_max_bytes=100)
    task = asyncio.create_task(store.run())
    want(store, A)
    for _ in range(2):
        with pytest.raises(CheckpointBroken, match="cannot be served: no weights for k_proj"):
            await store.reference_for(A, wait_s=30)
    await store.put(A, TRAINERS)  # its trainer knows better
    assert await store.reference_for(A, wait_s=0) == TRAINERS
    task.cancel()
    await asyncio.wait({task})


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "limit_s", "said"),
    [
        (
            "import sys; sys.stderr.write('first\\nRuntimeError: boom\\n'); sys.exit(3)",
            30,
            "ended with 3: RuntimeError",
        ),
        ("print('{}')", 30, "not a reference"),
        ("import time; time.sleep(60)", 0.05, "took longer"),
    ],
)
def test_a_program_that_fails_is_said(tmp_path: Path, code: str, limit_s: float, said: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    cache = DigestCache()
    maker = ReferenceMaker(cache, program=program(code), limit_s=limit_s)
    with pytest.raises(ReferenceFailed, match=said):
        asyncio.run(maker.compute(folder, inspect(folder, cache).digest))


def test_a_program_tells_a_broken_checkpoint_from_a_failure_of_its_own(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    cache = DigestCache()
    maker = ReferenceMaker(cache, program=program("import sys; sys.stderr.write('no k_proj'); sys.exit(65)"))
    with pytest.raises(CheckpointBroken, match=r"^no k_proj$"):
        asyncio.run(maker.compute(folder, inspect(folder, cache).digest))


def test_the_reference_of_files_that_changed_is_dropped(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    cache = DigestCache()
    digest = inspect(folder, cache).digest
    maker = ReferenceMaker(cache, program=program(f"print({COMPUTED.model_dump_json()!r})"))
    assert asyncio.run(maker.compute(folder, digest)) == COMPUTED
    write_shard(folder / "model.safetensors", weights(1))
    with pytest.raises(ReferenceFailed, match="changed"):
        asyncio.run(maker.compute(folder, digest))


async def test_cancelling_ends_the_program(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"

    task = asyncio.create_task(ReferenceMaker(DigestCache(), program=program(code)).compute(tmp_path, A))
    while not (note.exists() and note.read_text()):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not Path(f"/proc/{note.read_text()}").exists()
