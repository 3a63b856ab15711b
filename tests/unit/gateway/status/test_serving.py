"""What the gateway says of how much it serves, read from Prometheus' registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.status.serving import serving_report
from stepserve.contract import GatewayState, ModelUsage, UsageReport


def test_requests_of_pages_and_probes_are_not_counted_and_first_tokens_are() -> None:
    registry = CollectorRegistry()
    requests = Counter("stepserve_requests_total", "", ["route", "model", "code", "key"], registry=registry)
    requests.labels("/v1/chat/completions", "a", "200", "none").inc(3)
    requests.labels("/jobs", "", "200", "none").inc(50)
    Gauge("vllm:num_requests_waiting", "", ["engine"], registry=registry).labels("0").set(4)
    first = Histogram("vllm:time_to_first_token_seconds", "", ["engine"], buckets=(0.1, 1), registry=registry)
    for engine, seconds in (("0", 0.05), ("0", 0.5), ("1", 0.05), ("1", 7)):
        first.labels(engine).observe(seconds)
    state = GatewayState(boot_id="x", pid=1, active=None, switching_to=None, slots=[], held=2)
    usage = UsageReport(
        boot_id="x",
        in_flight=0,
        models=[
            ModelUsage(model="a", request_class=kind, requests=1, prompt_tokens=9, completion_tokens=5, busy_s=1)
            for kind in ("interactive", "batch")
        ],
        jobs=[],
    )
    told = serving_report(state, usage, registry)
    assert (told.requests, told.waiting, told.tokens) == (3, 6, {"a": 10})
    assert (told.first_token_bounds_s, told.first_token_counts) == ([0.1, 1.0], [2, 1, 1])
