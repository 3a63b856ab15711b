"""Imported by the process that engines are forked from, and by nothing else: what an engine needs of vLLM."""

import gc
import signal
from importlib import import_module
from multiprocessing import forkserver, resource_tracker

import setproctitle

from gateway.engine.patches.forked_engines import fork_workers
from stepserve.process import follow_parent, without_collector

_DEFAULT_THRESHOLDS = (700, 10, 10)  # Python's; what the gateway has of its own is not for engines

with without_collector():
    for name in (
        "vllm.v1.engine.utils",
        "vllm.v1.engine.core",
        "vllm.v1.worker.cpu_worker",
        "vllm.v1.worker.cpu_model_runner",
        "vllm.model_executor.model_loader",
        "vllm.tokenizers",
        "gateway.engine.patches.registry",
    ):
        import_module(name)

fork_workers()
setattr(forkserver._forkserver, "ensure_running", resource_tracker.ensure_running)  # noqa: B010 - typeshed does not know it
setproctitle.setproctitle("stepserve: engine starter")
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends with the gateway: engines end with this process
follow_parent(signal.SIGKILL)
gc.collect()
gc.set_threshold(*_DEFAULT_THRESHOLDS)
gc.freeze()  # what is here now is never garbage, and a collector that looked at it would copy it into every fork
