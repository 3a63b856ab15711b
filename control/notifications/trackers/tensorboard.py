"""TensorBoard's event files: `tensorboard --logdir FOLDER`. An entry is a file of its own, which TensorBoard joins."""

import hashlib

from tensorboardX import SummaryWriter

from control.notifications.trackers.entry import Destination, Entry

_LONGEST_NAME_BYTES = 255


def log(there: Destination, entry: Entry) -> None:
    # Else two entries in one second would write to one file.
    suffix = f".{hashlib.sha256(entry.event_id.encode()).hexdigest()[:12]}"
    with SummaryWriter(logdir=str(there.folder / folder_of(entry.run)), filename_suffix=suffix) as writer:
        for metric, value in entry.metrics.items():
            writer.add_scalar(metric, value, entry.step, walltime=entry.at_s)


def folder_of(run: str) -> str:
    """A folder's name for a run; one that is longer than a file system takes ends with a digest of itself."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in run).lstrip(".")
    whole = name.encode()
    if len(whole) <= _LONGEST_NAME_BYTES:
        return name or "run"
    digest = hashlib.sha256(run.encode()).hexdigest()[:16]
    return f"{whole[: _LONGEST_NAME_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"
