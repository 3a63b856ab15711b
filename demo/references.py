"""What the demo checkpoints must say, computed once: `python -m demo.references` after they are trained anew.

A server that installs the demo then has nothing to compute before its first proof.
"""

import asyncio
from pathlib import Path

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.models.reference_maker import ReferenceMaker
from stepserve.contract import Reference

HERE = Path(__file__).parent
FOLDER = HERE / "references"
CHECKPOINTS = ("step-0300", "step-0500", "step-1500", "task-writer")


def file_name(digest: str) -> str:
    """As `references/` in the base directory names it."""
    return f"{digest.removeprefix('sha256:')}.json"


async def compute(name: str) -> tuple[str, Reference]:
    """The digest of a demo checkpoint, and its reference."""
    folder = HERE / "checkpoints" / name
    cache = DigestCache()
    digest = (await asyncio.to_thread(inspect, folder, cache)).digest
    return digest, await ReferenceMaker(cache).compute(folder, digest)


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name in CHECKPOINTS:
        digest, reference = await compute(name)
        (FOLDER / file_name(digest)).write_text(reference.model_dump_json(exclude_none=True) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
