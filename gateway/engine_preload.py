"""Imported by the process that engines are forked from, and by nothing else."""

import gc
import signal
from importlib import import_module
from multiprocessing import forkserver, resource_tracker

import setproctitle
import vllm.v1.engine.utils
import vllm.v1.executor.multiproc_executor

from gateway.engine_processes import CONTEXT
from stepserve.process import follow_parent

for name in (
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.model_loader",
    "vllm.tokenizers",
):
    import_module(name)

# Where a model needs more than one process, the first starts the others the same way, by the server it comes from.
vllm.v1.executor.multiproc_executor.get_mp_context = lambda: CONTEXT
setattr(forkserver._forkserver, "ensure_running", resource_tracker.ensure_running)  # noqa: B010 - typeshed does not know it
setproctitle.setproctitle("stepserve: engine starter")
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends with the gateway: engines end with this process
follow_parent(signal.SIGKILL)
gc.collect()
gc.freeze()  # what is here now is never garbage, and a collector that looked at it would copy it into every fork
