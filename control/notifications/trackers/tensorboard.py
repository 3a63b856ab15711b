"""TensorBoard's event files: `tensorboard --logdir FOLDER`. An entry is a file of its own, which TensorBoard joins."""

import hashlib

from tensorboardX import SummaryWriter

from control.notifications.trackers.entry import Destination, Entry


def log(there: Destination, entry: Entry) -> None:
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in entry.run).lstrip(".")
    # Else two entries in one second would write to one file.
    suffix = f".{hashlib.sha256(entry.event_id.encode()).hexdigest()[:12]}"
    with SummaryWriter(logdir=str(there.folder / (name or "run")), filename_suffix=suffix) as writer:
        for metric, value in entry.metrics.items():
            writer.add_scalar(metric, value, entry.step, walltime=entry.at_s)
