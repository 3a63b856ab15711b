"""Runs inside vLLM's worker (`worker_extension_cls`): puts another checkpoint's tensors into the live parameters."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.engine.patches.registry import ActivePatches
from gateway.engine.process.reload import obstacle, obstacle_in, repack
from gateway.engine.process.staging import Staging, obstacle_to_staging
from gateway.engine.weights.tensors import tensors_in

ActivePatches.here().in_worker()  # this module is imported in the worker's process alone


class StepserveWorker:
    """Mixed into vLLM's worker class, so `self` is the worker. Called by `collective_rpc`."""

    _staging: Staging | None = None

    def stepserve_stage(self, path: str, weights: str | None, cpus: Sequence[int]) -> str | None:
        """Begins to make the checkpoint at `path` ready, or in its place the tensors of the file `weights`, in a thread
        that may run on `cpus`; or says why that is not possible.
        """
        self.stepserve_unstage()
        reason = obstacle_to_staging(self)
        if reason is None:
            self._staging = Staging(self, path, weights, cpus)
        return reason

    def stepserve_staged(self) -> str | None:
        """ "running", "ready", or why it failed."""
        if self._staging is None:
            return "nothing is made ready"
        return (self._staging.failure or "ready") if self._staging.is_over else "running"

    def stepserve_unstage(self) -> None:
        """What was made ready is not needed."""
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.drop()

    def stepserve_reload(self, path: str, weights: str | None = None) -> float:
        """Loads the tensors of the checkpoint at `path`, or of the file `weights`, into the running model; returns the
        seconds it took. What was made ready of just that is taken instead of reading it.

        Names, shapes and types were compared before. Raises what vLLM raises when a file turns out otherwise: the
        parameters are then a mixture, and the caller loads the previous checkpoint again.
        """
        started = time.perf_counter()
        worker: Any = self
        staging = self._staging
        if staging is not None and staging.source == (path, weights) and self._is_ready(staging):
            self._staging = None
            staging.take_over()
            return time.perf_counter() - started
        self.stepserve_unstage()
        if weights is None:
            worker.reload_weights(weights_path=path)
        else:
            worker.reload_weights(weights_iterator=tensors_in(Path(weights)))
        repack(worker.model_runner.model)
        return time.perf_counter() - started

    @staticmethod
    def _is_ready(staging: Staging) -> bool:
        return staging.is_over and staging.failure is None

    def stepserve_pid(self) -> int:
        """The process of this rank."""
        return os.getpid()

    def stepserve_clear_cache(self) -> None:
        """Writes zeros over the KV cache, of which nobody may need anything.

        The CPU's attention multiplies what stands in unused rows by zero, and NaN stays NaN: one model that is not
        finite would spoil the answers of the next.
        """
        worker: Any = self
        for cache in worker.model_runner.kv_caches:
            for tensor in (cache,) if hasattr(cache, "zero_") else cache:  # a state-space layer has several
                tensor.zero_()

    def stepserve_reload_obstacle(self) -> str | None:
        """Why this engine's model cannot take another checkpoint's tensors in place, or None when it can."""
        worker: Any = self
        return obstacle_in(worker.vllm_config) or obstacle(worker.model_runner.model)
