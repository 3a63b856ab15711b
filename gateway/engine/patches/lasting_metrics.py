"""vLLM's Prometheus series outlast the engines that come and go in one process (gateway.engine.metrics)."""

from collections.abc import Callable
from typing import Any

from gateway.engine.patches.patch import Patch


def stat_loggers(progress: Any) -> list[Callable[..., Any]]:
    """For an AsyncLLM: vLLM's own, with collectors that are used again, and `progress`."""
    from gateway.engine.metrics import ReusingStatLogger

    return [ReusingStatLogger, lambda _config, _index: progress]


def relabel(client: Any) -> None:
    """Makes new loggers by the model's name of now: their label `model_name` is fixed when they are made."""
    from gateway.engine.metrics import ReusingStatLogger

    loggers = client.logger_manager.stat_loggers
    for position, each in enumerate(loggers):
        if isinstance(each, ReusingStatLogger):
            loggers[position] = ReusingStatLogger(client.vllm_config, each.engine_indexes)


PATCH = Patch(
    name="lasting_metrics",
    changes="A subclass of PrometheusStatLogger stands for it; it makes no collector that exists, and notes token use.",
    why="vLLM unregisters every `vllm:` collector when an engine is created.",
    without="After a switch the series of engines that still serve are gone; jobs' tokens and energy are not counted.",
    gain="Not a matter of speed.",
    goes_when="vLLM's collectors are shared by the engines of a process.",
    required=True,
    targets={
        "vllm.v1.metrics.loggers:PrometheusStatLogger.__init__": "5c8762320d39",
        "vllm.v1.metrics.loggers:PrometheusStatLogger.record": "a506cbde7928",
        "vllm.v1.metrics.prometheus:unregister_vllm_metrics": "12f8a415b6d3",
    },
)
