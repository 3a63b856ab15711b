"""Our own Prometheus series; vLLM's stand beside them in the same registry."""

from prometheus_client import Counter, Gauge

REQUESTS = Counter("switchyard_requests_total", "Requests answered, by kind of route and HTTP code.", ["route", "code"])
HELD = Gauge("switchyard_held_requests", "Requests that wait for a switch to end.")
SWITCHES = Counter("switchyard_switches_total", "Switches that ended.", ["method", "outcome"])
RESIDENT_LOADS = Counter(
    "switchyard_resident_loads_total", "Loads of models beside the active one that ended.", ["outcome"]
)
ENGINE_DEATHS = Counter("switchyard_engine_deaths_total", "Engines that died while they served.", ["model"])
ACTIVE = Gauge("switchyard_engine_ready", "1 while the active model's engine answers, else 0.")
PROOFS = Counter("switchyard_proofs_total", "Proofs of switches, by kind of reference.", ["kind", "passed"])
PROOF_DIFFERENCE = Gauge(
    "switchyard_proof_mean_abs_diff",
    "Mean difference of log-probabilities to the reference at the last switch.",
    ["model"],
)
