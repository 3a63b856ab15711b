"""Weights & Biases, offline: what it writes is sent by `wandb sync` from wherever there is a network and a key."""

import hashlib

import wandb

from control.notifications.trackers.entry import Destination, Entry
from control.notifications.trackers.known import DEFAULT_RUN


def log(there: Destination, entry: Entry) -> None:
    """All entries of a run have its id. Steps may come in any order, so the training step is a metric of its own."""
    project = there.options.get("project", DEFAULT_RUN)
    with wandb.init(
        mode="offline",
        project=project,
        name=entry.run,
        id=hashlib.sha256(f"{project}\n{entry.run}".encode()).hexdigest()[:16],
        resume="allow",
        dir=str(there.folder),
        settings=wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True, silent=True),
    ) as run:
        run.define_metric("*", step_metric="training_step")
        run.log({**entry.metrics, "training_step": entry.step})
