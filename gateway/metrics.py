"""Our own Prometheus series; vLLM's stand beside them in the same registry.

Labels are bounded: routes by stepserve.route_table, models by `ModelLabel`, which forgets those that are long gone.
"""

from collections import OrderedDict

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

_MODELS_KEPT = 32
_DURATION_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300)

REQUESTS = Counter(
    "stepserve_requests_total",
    "Requests answered, by route, model, HTTP code (499: the client left first) and class of key.",
    ["route", "model", "code", "key"],
)
DURATION = Histogram(
    "stepserve_request_duration_seconds",
    "From a request's arrival to the last byte of its answer.",
    ["route"],
    buckets=_DURATION_BUCKETS_S,
)
HELD = Gauge("stepserve_held_requests", "Requests that wait for a switch to end.")
SWITCHES = Counter("stepserve_switches_total", "Switches that ended.", ["method", "outcome"])
RESIDENT_LOADS = Counter(
    "stepserve_resident_loads_total",
    "Loads of models in addition to the active one that ended, by outcome (loaded, failed) and model.",
    ["outcome", "model"],
)
LOAD_WAIT = Histogram(
    "stepserve_load_wait_seconds",
    "How long those waited that had to wait for their model to be loaded in addition to the active one.",
    ["model"],
    buckets=(0.5, 2, 5, 10, 20, 30, 60, 120, 300),
)
SWITCH_PAUSE = Histogram(
    "stepserve_switch_pause_seconds",
    "How long a switch let no request be answered.",
    ["method"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120),
)
SWITCH_HOLD = Histogram(
    "stepserve_switch_hold_seconds",
    "How long a switch let new requests wait, its drain included.",
    ["method"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120),
)
ENGINE_DEATHS = Counter("stepserve_engine_deaths_total", "Engines that died while they served.", ["model"])
ACTIVE = Gauge("stepserve_engine_ready", "1 while the active model's engine answers, else 0.")
PROOFS = Counter("stepserve_proofs_total", "Proofs of switches, by kind of reference.", ["kind", "passed"])
PROOF_DIFFERENCE = Gauge(
    "stepserve_proof_mean_abs_diff",
    "Mean difference of log-probabilities to the reference at the last switch.",
    ["model"],
)
TOKENS = Counter(
    "stepserve_tokens_total",
    "Tokens of finished generations, by model, class of request (interactive, batch, probe) and kind.",
    ["model", "class", "kind"],
)
NOT_FINITE = Counter(
    "stepserve_answers_not_finite_total",
    "Requests refused because the model computed numbers that are not finite (NaN) for them.",
    ["model"],
)
MODEL_HEALTHY = Gauge(
    "stepserve_model_healthy",
    "1 while the active model passed its last proof and no answer was refused for numbers that are not finite since.",
)
SELF_CHECKS = Counter(
    "stepserve_self_checks_total",
    "Proofs of the active model while it serves, by how they ended (passed, failed, unfinished).",
    ["outcome"],
)
PUSHES = Counter(
    "stepserve_weight_pushes_total",
    "Pushes of weights that reached an engine, by how they ended (pushed, failed), and that were refused before.",
    ["outcome"],
)
PUSHED_BYTES = Counter("stepserve_weight_push_bytes_total", "Bytes of the tensors that were pushed into an engine.")
PUSH_PAUSE = Histogram(
    "stepserve_weight_push_pause_seconds",
    "How long a push let no request be answered, its proof included.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120),
)
PUSHED_AT = Gauge(
    "stepserve_weight_push_timestamp_seconds",
    "When weights were pushed into an engine last, in seconds since 1970; 0: not since this gateway was started.",
)
ACROSS_VERSIONS = Counter(
    "stepserve_answers_across_versions_total",
    "How often an answer that had begun went on with a later version of the weights (in_flight=keep).",
)
VERSION = Gauge(
    "stepserve_model_version",
    "The number of the push that the active model's weights came with; 0: they are those of its files.",
)
LOG_LINES_LOST = Gauge("stepserve_log_lines_lost", "Log lines of the gateway that no disk took.")
LOOP_LAG = Gauge("stepserve_event_loop_lag_seconds", "The latest that the gateway's event loop was in the last minute.")
CONTROL_UP = Gauge("stepserve_control_up", "1 while the control process answers, else 0.")
CONTROL_AGE = Gauge("stepserve_control_metrics_age_seconds", "Age of what is shown of control's series.")


# What rates are taken of has to be there before it first happens.
for _kind in ("reference", "computed", "weak", "changed"):
    for _passed in ("true", "false"):
        PROOFS.labels(kind=_kind, passed=_passed)
for _outcome in ("passed", "failed", "unfinished"):
    SELF_CHECKS.labels(outcome=_outcome)
for _outcome in ("pushed", "failed", "refused"):
    PUSHES.labels(outcome=_outcome)
for _method in ("in_place", "blue_green", "restart"):
    for _outcome in ("activated", "failed"):
        SWITCHES.labels(method=_method, outcome=_outcome)


class ModelLabel:
    """Values of the label `model`: the newest few. The series of one that falls out vanish with it."""

    def __init__(self, metrics: tuple[MetricWrapperBase, ...], kept: int = _MODELS_KEPT) -> None:
        self._metrics = metrics
        self._kept = kept
        self._names: OrderedDict[str, None] = OrderedDict()

    def __call__(self, model: str) -> str:
        if model in self._names:
            self._names.move_to_end(model)
            return model
        self._names[model] = None
        if len(self._names) > self._kept:
            oldest, _ = self._names.popitem(last=False)
            for metric in self._metrics:
                metric.remove_by_labels({"model": oldest})
        return model


model_label = ModelLabel((REQUESTS, ENGINE_DEATHS, PROOF_DIFFERENCE, TOKENS, NOT_FINITE, RESIDENT_LOADS, LOAD_WAIT))


def note_request(route: str, model: str, status: int, key_class: str, duration_s: float) -> None:
    REQUESTS.labels(route, model_label(model) if model else "", str(status), key_class).inc()
    DURATION.labels(route).observe(duration_s)
