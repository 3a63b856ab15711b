"""trackio, in files of its own: `TRACKIO_DIR=FOLDER trackio show`."""

import importlib
import os
from typing import Any

from control.notifications.trackers.entry import Destination, Entry
from control.notifications.trackers.known import DEFAULT_RUN


def log(there: Destination, entry: Entry) -> None:
    os.environ["TRACKIO_DIR"] = str(there.folder)  # read when it is imported
    trackio: Any = importlib.import_module("trackio")
    trackio.init(project=there.options.get("project", DEFAULT_RUN), name=entry.run, resume="allow")
    trackio.log(dict(entry.metrics), step=entry.step)
    trackio.finish()
