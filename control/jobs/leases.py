"""Which leases are dead, seen by watching them: no clock but this process's monotonic one is asked.

The wall clocks of two machines differ, and one machine's may jump by an hour. So a lease is not dead because its time
is past, but because it did not change while somebody watched it for the length of a lease.
"""

import time
from collections.abc import Callable, Iterable

from control.jobs.queue import Lease


class LeaseWatch:
    def __init__(self, lease_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._unchanged_since_s: dict[Lease, float] = {}

    def dead(self, leases: Iterable[Lease]) -> list[Lease]:
        """Those of `leases` that have not changed for a lease's length of calls."""
        now_s = self._monotonic_s()
        self._unchanged_since_s = {lease: self._unchanged_since_s.get(lease, now_s) for lease in leases}
        return [lease for lease, since_s in self._unchanged_since_s.items() if now_s - since_s >= self._lease_s]
