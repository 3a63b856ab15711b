"""A file of weights that a member has, made into that of a later version by the delta between the two. Blocks."""

import shutil
from pathlib import Path

from gateway.serving.weights.delta import apply_changes
from stepserve.shard import BadShard, read_segments, read_tensors


class PatchFailed(Exception):
    """A delta that is not one for the file. One sentence."""


def patch(base: Path, delta: Path, target: Path) -> None:
    """Writes `base` with the changes of `delta` to `target`. Whether that is right its sha256 says.

    Raises PatchFailed, OSError; what is in `target` then is of no use.
    """
    shutil.copyfile(base, target)
    try:
        segments, tensors = read_segments(delta, delta.name), read_tensors(target)
    except BadShard as error:
        raise PatchFailed(f"{error}.") from error
    unknown = {each.name for each in segments.tensors} - {each.name for each in tensors}
    if unknown:
        raise PatchFailed(f"{min(unknown)} is not in {base}.")
    with target.open("r+b") as stream:
        faults = list(apply_changes(delta, segments, tensors, stream.fileno()))
    if faults:
        raise PatchFailed(f"{faults[0]}.")
