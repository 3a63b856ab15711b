"""The life of a job.

pending ──► running ──► done
   │  ▲       │ ├─────► failed ──┐     pending ──► failed: its model was removed
   │  └───────┘ └─────► cancelled│     running ──► pending: given back, its files kept
   └──────────────────────►  │   │
      ▲───────── retry ──────┴───┘
"""

from typing import Final, Literal, get_args

Status = Literal["pending", "running", "done", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)

TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    "pending": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"pending", "done", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset({"pending"}),
    "cancelled": frozenset({"pending"}),
}

AttemptOutcome = Literal["done", "failed", "cancelled", "released", "lost"]
"""How an attempt ended, as its row says. `released`: given back to the queue. `lost`: its runner died."""


def may_become(current: Status, target: Status) -> bool:
    return target in TRANSITIONS[current]


LIVE: Final[tuple[Status, ...]] = tuple(status for status in STATUSES if may_become(status, "cancelled"))
"""Not over yet: what can be cancelled."""

OVER: Final[tuple[Status, ...]] = tuple(status for status in STATUSES if status not in LIVE)

RETRYABLE: Final[tuple[Status, ...]] = tuple(
    status for status in STATUSES if status not in LIVE and may_become(status, "pending")
)
"""Over, and may be tried again."""
