"""Weights that were pushed to a fleet, as a checkpoint on disk: written here for control, and read by every gateway."""

import asyncio
import os
import shutil
from pathlib import Path

from gateway.errors import BadWeights, NoRoom, PushRefused
from gateway.pushing.persist import write_checkpoint
from gateway.pushing.pusher import Delta, Pusher
from gateway.serving.memory import host_free_bytes
from gateway.serving.slot import Slot
from gateway.serving.switching.push import PushRequest
from gateway.serving.weights.check import check
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import ModelRef, Reference, WeightsVersion
from stepserve.durable import write_whole, written_aside
from stepserve.fleet import KEPT_DELTA_FILE, KEPT_VERSION_FILE, WEIGHTS_FILE, KeptVersion

_COPIED_BYTES = 64 * 1024 * 1024
_SPARE_BYTES = 256 * 1024 * 1024


def keep(request: PushRequest, folder: Path, delta: Delta | None) -> KeptVersion:
    """What is about to be pushed; also the `delta` that it came as, for members that have its base. Blocks. Raises
    OSError.
    """
    kept = KeptVersion(
        model=request.model.id,
        files_digest=request.files_digest,
        digest=request.model.digest,
        version=request.version,
        folder=str(folder),
        delta_base=delta.base if delta is not None else None,
        reference=request.reference,
        in_flight=request.in_flight,
        timeout_s=request.timeout_s,
    )
    _write(kept, Path(request.model.path), request.weights, delta)
    return kept


def keep_served(
    active: ModelRef,
    slot: Slot,
    weights: StagedWeights,
    version: WeightsVersion,
    reference: Reference | None,
    folder: Path,
) -> KeptVersion:
    """What `slot` answers with since the last push. Blocks. Raises OSError."""
    kept = KeptVersion(
        model=active.id,
        files_digest=active.digest,
        digest=slot.model.digest,
        version=version,
        folder=str(folder),
        reference=reference,
    )
    _write(kept, Path(active.path), weights, None)
    return kept


async def read(kept: KeptVersion, pusher: Pusher) -> PushRequest:
    """A kept version as a push into the active model, checked as one that came over the network. What was pushed over
    other files than the model's here is refused. Raises BadWeights, PushRefused, NoRoom, and as `Pusher.target`.
    """
    slot, active = pusher.target(kept.model), pusher.pool.snapshot().active
    if active is None or active.digest != kept.files_digest:
        served = active.digest if active is not None else "nothing"
        raise PushRefused(f"The weights are for `{kept.model}` with files {kept.files_digest}, not {served}.")
    before, expected = slot.model, await pusher.expected(slot)
    needed, free = expected.bytes, host_free_bytes()
    if needed + _SPARE_BYTES > free:
        raise NoRoom(f"The weights take {needed} bytes of this machine's memory, and {free} are free.", 5.0)
    weights = StagedWeights()
    try:
        try:
            await asyncio.to_thread(_copy, Path(kept.folder) / WEIGHTS_FILE, weights.descriptor)
        except OSError as error:
            raise BadWeights([f"{kept.folder} cannot be read ({error.strerror or error})"]) from error
        weights.checked = await asyncio.to_thread(check, weights.path, expected)
        digest = await asyncio.to_thread(expected.digest, weights.checked)
        if digest != kept.digest:
            raise BadWeights([f"the files in {kept.folder} make {digest}, not {kept.digest}"])
        return PushRequest(
            slot=slot,
            before=before,
            model=before.model_copy(update={"digest": digest}),
            files_digest=kept.files_digest,
            version=kept.version,
            weights=weights,
            changed=weights.checked.changed(await pusher.served(slot)),
            tensors=len(weights.checked.tensors),
            reference=kept.reference,
            in_flight=kept.in_flight,
            timeout_s=kept.timeout_s,
        )
    except BaseException:
        weights.close()
        raise


def _write(kept: KeptVersion, source: Path, weights: StagedWeights, delta: Delta | None) -> None:
    """Blocks. Raises OSError."""
    folder = Path(kept.folder)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder, source, weights)
    if delta is not None:
        with written_aside(folder / KEPT_DELTA_FILE) as part:
            shutil.copyfile(delta.body.path, part)
    write_whole(folder / KEPT_VERSION_FILE, kept.model_dump_json())


def _copy(file: Path, descriptor: int) -> None:
    with file.open("rb") as stream:
        length, position = os.fstat(stream.fileno()).st_size, 0
        while position < length:
            count = os.sendfile(descriptor, stream.fileno(), position, min(length - position, _COPIED_BYTES))
            if not count:
                raise OSError(f"{file} became shorter while it was read")
            position += count
