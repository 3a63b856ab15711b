"""In a node's process: the ranks of an order, as vLLM's own `--headless` runs them."""

import os

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from gateway.engine.config import engine_config
from gateway.engine.patches.forked_engines import are_forked, fork_workers
from gateway.engine.patches.registry import ActivePatches
from gateway.engine.process.guard import GUARD_VARIABLE
from gateway.engine.process.start_method import ensure_start_method
from gateway.nodes.messages import Start
from stepserve.settings import EngineSettings


def compute(order: Start) -> None:
    """Returns when one of the ranks has ended, and all have. Raises what vLLM raises when they do not start."""
    model = order.model_there
    settings = EngineSettings.model_validate(order.settings).with_overrides(model.engine)
    os.environ[GUARD_VARIABLE] = str(os.getpid())
    ActivePatches.of(settings.patches).announce()
    ensure_start_method()
    if are_forked(settings):
        fork_workers()
    _, config = engine_config(model, settings)
    executor = MultiprocExecutor(config, monitor_workers=False)
    executor.start_worker_monitor(inline=True)
