"""Processes that must not outlive the one that started them."""

import os
import signal
import threading
import time

_INTERVAL_S = 1.0


def follow_parent(number: signal.Signals) -> None:
    """Sends this process `number` within about a second of its parent's end, however that ended.

    A thread that looks, not Linux's parent-death signal: that one fires when the parent's *thread* ends.
    """
    name = "switchyard-follow-parent"
    if any(thread.name == name for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, args=(os.getppid(), number), name=name, daemon=True).start()


def _watch(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os.kill(os.getpid(), number)
