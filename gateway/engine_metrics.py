"""vLLM's Prometheus series for engines that come and go in one process.

vLLM unregisters every `vllm:` collector when an engine is created, so the series of an engine that still serves would
vanish. Here a collector that exists is used again: the engines differ by the label `model_name`.
"""

from typing import Any, TypeVar

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from vllm.v1.metrics.loggers import PrometheusStatLogger

M = TypeVar("M", bound=MetricWrapperBase)

_collectors: dict[str, MetricWrapperBase] = {}


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

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # unregisters all of vLLM's collectors, then makes or finds its own
        registered = list(REGISTRY._collector_to_names)
        for collector in _collectors.values():
            if collector not in registered:
                REGISTRY.register(collector)
