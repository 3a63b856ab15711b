"""How much is served, read from the series of this process: vLLM's own stand beside ours in one registry."""

import math
from collections import Counter

from prometheus_client import REGISTRY, CollectorRegistry

from stepserve.contract import GatewayState, UsageReport
from stepserve.serving_report import ServingReport

_REQUESTS = "stepserve_requests_total"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_FIRST_TOKENS = "vllm:time_to_first_token_seconds_bucket"
_NAMES = (_REQUESTS, _RUNNING, _WAITING, _FIRST_TOKENS)
_INFERENCE = ("/v1/", "/generate", "/chat", "/solve", "/api/chat", "/api/generate")


def serving_report(state: GatewayState, usage: UsageReport, registry: CollectorRegistry = REGISTRY) -> ServingReport:
    """Takes about a millisecond: only these series are collected."""
    sums: Counter[str] = Counter()
    within: Counter[float] = Counter()  # first tokens by upper bound in seconds, each with all below it
    for family in registry.restricted_registry(_NAMES).collect():
        for sample in family.samples:
            if sample.name == _FIRST_TOKENS:
                within[float(sample.labels["le"])] += int(sample.value)
            elif sample.name != _REQUESTS or sample.labels["route"].startswith(_INFERENCE):
                sums[sample.name] += int(sample.value)
    tokens: Counter[str] = Counter()
    for used in usage.models:
        tokens[used.model] += used.completion_tokens
    bounds = sorted(within)
    counts = [within[bound] - (within[bounds[place - 1]] if place else 0) for place, bound in enumerate(bounds)]
    return ServingReport(
        boot_id=state.boot_id,
        active=state.active.id if state.active else None,
        version=state.pushed.number if state.pushed else 0,
        requests=sums[_REQUESTS],
        running=sums[_RUNNING],
        waiting=sums[_WAITING] + state.held,
        tokens=dict(tokens),
        first_token_bounds_s=[bound for bound in bounds if not math.isinf(bound)],
        first_token_counts=counts,
        deaths=state.deaths,
    )
