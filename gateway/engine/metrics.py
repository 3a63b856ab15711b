"""vLLM's Prometheus series for engines that come and go in one process.

vLLM unregisters every `vllm:` collector when an engine is created, so the series of an engine that still serves would
vanish. Here a collector that exists is used again: the engines differ by the label `model_name`. The series of models
that are not loaded any more are kept for a few switches and then dropped, or there would be more with every checkpoint.
"""

import threading
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase

from gateway.status.usage import usage

_NAMES_KEPT = 8

M = TypeVar("M", bound=MetricWrapperBase)

_registering = threading.Lock()  # engines start in threads, also two at once
_collectors: dict[str, MetricWrapperBase] = {}
_names: dict[str, None] = {}  # of models that have series, the newest last


def _reuse(kind: type[M]) -> Any:
    """A stand-in for the class `kind` that gives back the collector of that name where one was made before."""

    def get_or_make(name: str, *args: Any, **options: Any) -> M:
        known = _collectors.get(name)
        if known is None:
            known = _collectors[name] = kind(name, *args, **options)
        assert isinstance(known, kind), f"{name} was made as a {type(known).__name__}"
        return known

    return get_or_make


class ReusingStatLogger(PrometheusStatLogger):
    """Give this class as a stat logger to each AsyncLLM of a process."""

    _gauge_cls = staticmethod(_reuse(Gauge))
    _counter_cls = staticmethod(_reuse(Counter))
    _histogram_cls = staticmethod(_reuse(Histogram))

    living: ClassVar[WeakSet["ReusingStatLogger"]] = WeakSet()

    def __init__(self, *args: Any, **options: Any) -> None:
        with _registering:
            super().__init__(*args, **options)  # unregisters all of vLLM's collectors, then makes or finds its own
            registered = list(REGISTRY._collector_to_names)
            for collector in _collectors.values():
                if collector not in registered:
                    REGISTRY.register(collector)
            self.model = str(next(iter(self.per_engine_labelvalues.values()))[0])
            self.living.add(self)
            _forget_old(self.model, {each.model for each in self.living})

    def log_engine_initialized(self) -> None:
        """Called by vLLM once an engine runs: its settings are a series' labels, which the next engine's replace."""
        known = _collectors.get("vllm:cache_config_info")
        if known is not None:
            known.clear()
        super().log_engine_initialized()

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **options: Any) -> None:
        """Called by vLLM after each step of the engine."""
        super().record(scheduler_stats, iteration_stats, *args, **options)
        if iteration_stats is not None:
            for done in iteration_stats.finished_requests:
                usage.note(
                    self.model,
                    done.request_id or "",
                    done.num_prompt_tokens,
                    done.num_generation_tokens,
                    done.inference_time,
                )


class Progress(StatLoggerBase):
    """A stat logger for one engine that only counts: proof of life that costs nothing.

    `steps` grows while requests are computed, also where no answer is sent yet (gateway.engine.whole), and stays where
    the engine's loop turns and nothing runs.
    """

    def __init__(self) -> None:
        self.steps = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_args: Any, **_options: Any) -> None:
        """Called by vLLM for each message of the engine; `iteration_stats` is None where it carries no output."""
        if iteration_stats is not None or (scheduler_stats is not None and scheduler_stats.num_running_reqs):
            self.steps += 1

    def log_engine_initialized(self) -> None: ...


def _forget_old(newest: str, loaded: set[str]) -> None:
    _names.pop(newest, None)
    _names[newest] = None
    for name in list(_names)[:-_NAMES_KEPT]:
        if name not in loaded:
            del _names[name]
            for collector in _collectors.values():
                if "model_name" in collector._labelnames:  # `vllm:cache_config_info` has the engine's settings instead
                    collector.remove_by_labels({"model_name": name})
