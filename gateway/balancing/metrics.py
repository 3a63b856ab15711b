"""The series of a fleet's members. Their label is a member's id for the first MAX_LABELS, `other` for those after."""

from prometheus_client import Counter, Gauge
from prometheus_client.metrics import MetricWrapperBase

MAX_LABELS = 256
OTHER = "other"

REQUESTS = Counter(
    "stepserve_fleet_requests_total",
    "Requests sent to a member of the fleet, by how they ended (answered, busy, failed, moved, abandoned).",
    ["member", "outcome"],
)
RETRIES = Counter(
    "stepserve_fleet_retries_total",
    "Requests that another member was asked for, by what became of the first (busy, failed, moved).",
    ["reason"],
)
OUTSTANDING = Gauge(
    "stepserve_fleet_outstanding_tokens", "Work that a member has from here, in estimated tokens.", ["member"]
)
OPEN = Gauge(
    "stepserve_fleet_breaker_open",
    "1 from a member's third failure in a row until it answers again, else 0.",
    ["member"],
)
WAITING = Gauge("stepserve_fleet_waiting_requests", "Requests that wait for a member that serves what they ask for.")

for _reason in ("busy", "failed", "moved"):
    RETRIES.labels(reason=_reason)


class MemberLabels:
    """Gives each member its label while it is one; the series of one that left vanish with it."""

    def __init__(
        self, metrics: tuple[MetricWrapperBase, ...] = (REQUESTS, OUTSTANDING, OPEN), most: int = MAX_LABELS
    ) -> None:
        self._metrics = metrics
        self._most = most
        self._ids: set[str] = set()

    def take(self, member_id: str) -> str:
        if member_id not in self._ids and len(self._ids) >= self._most:
            return OTHER
        self._ids.add(member_id)
        return member_id

    def release(self, member_id: str) -> None:
        if member_id in self._ids:
            self._ids.discard(member_id)
            for metric in self._metrics:
                metric.remove_by_labels({"member": member_id})
