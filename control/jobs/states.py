"""The life of a job.

pending ──► running ──► done
   │  ▲       │ ├─────► failed ──┐
   │  └───────┘ └─────► cancelled│    running ──► pending: released, its files kept
   └──────────────────────►  │   │
      ▲───────── retry ──────┴───┘
"""

from typing import Final, Literal, get_args

Status = Literal["pending", "running", "done", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)

TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    "pending": frozenset({"running", "cancelled"}),
    "running": frozenset({"pending", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset({"pending"}),
    "cancelled": frozenset({"pending"}),
}


def may_become(current: Status, target: Status) -> bool:
    return target in TRANSITIONS[current]
