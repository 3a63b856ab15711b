"""What /metrics says, as the numbers that the overview draws."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from stepserve.client.client import Client
from stepserve.client.errors import Forbidden, Unavailable

_HELD = "stepserve_held_requests"


@dataclass(frozen=True, slots=True)
class Gauges:
    """`requests` counts since the server started; it begins again at 0 with the server."""

    requests: float
    running: float
    waiting: float


def ask(there: Client) -> Gauges | None:
    """None for a key that may not see them, and while the server cannot say."""
    try:
        with there.streaming("GET", "/metrics") as answer:
            return read(answer.read().decode())
    except (Forbidden, Unavailable):
        return None


def read(text: str) -> Gauges:
    """A server that leaves a series out has none of it. Requests for what this page itself asks are not counted."""
    sums = {"stepserve_requests_total": 0.0, "vllm:num_requests_running": 0.0, "vllm:num_requests_waiting": 0.0}
    held = 0.0
    names = (*sums, _HELD)
    # The library's parser would spend most of its time on what is not asked for.
    ours = "\n".join(line for line in text.splitlines() if line.startswith(names)) + "\n"
    for family in text_string_to_metric_families(ours):
        for sample in family.samples:
            if sample.name == _HELD:
                held += sample.value
            elif sample.name == "stepserve_requests_total" and not _is_inference(sample.labels.get("route", "")):
                continue
            elif sample.name in sums:
                sums[sample.name] += sample.value
    requests, running, waiting = sums.values()
    return Gauges(requests, running, waiting + held)


def _is_inference(route: str) -> bool:
    return route.startswith(("/v1/", "/generate", "/chat", "/solve", "/api/chat", "/api/generate"))
