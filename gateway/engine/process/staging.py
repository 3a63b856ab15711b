"""In the worker: a checkpoint is made ready in a thread while requests are answered, and is then taken or dropped."""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.model_loader import get_model_loader

from gateway.engine.process.reload import repack
from gateway.engine.weights.host_set import HostSet
from gateway.engine.weights.second_set import SecondSet, obstacle_to_second_set, with_path
from gateway.engine.weights.tensors import tensors_in

log = logging.getLogger(__name__)

_NICENESS = 5  # whoever is answered goes first


class _Dropped(Exception):
    pass


class Staging:
    """`path`: the checkpoint's folder; `weights`: a file whose tensors take the place of the folder's. The thread may
    run on `cpus`, while the worker has its own.
    """

    def __init__(self, worker: Any, path: str, weights: str | None, cpus: Sequence[int]) -> None:
        self.source = (path, weights)
        self._worker = worker
        self._cpus = cpus
        self._config = with_path(worker.vllm_config.model_config, path)
        self._weights: SecondSet | HostSet | None = None
        self._failure: str | None = None
        self._is_dropped = False
        self._thread = threading.Thread(target=self._run, name="stage weights", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def failure(self) -> str | None:
        """Of one that is over: why the weights are not ready."""
        return self._failure

    def take_over(self) -> None:
        """The model computes with them from here on. Nothing may run."""
        assert self._weights is not None, "only what is ready is taken"
        self._weights.take_over()
        self._weights.release()
        runner, config = self._worker.model_runner, self._worker.vllm_config.model_config
        config.model, config.model_weights, config.revision = self._config.model, "", None  # as vLLM's reload does
        runner.reset_lora_state()
        runner.reset_encoder_cache()
        runner.reset_mm_cache()

    def drop(self) -> None:
        """Nobody needs them: the memory is given back, at the next tensor where they are still being read."""
        self._is_dropped = True
        if self._weights is not None:
            self._weights.release()

    def _run(self) -> None:
        with suppress(OSError):  # it is then as quick as the worker lets it be
            os.sched_setaffinity(0, self._cpus)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self._weights = self._made()
            if self._is_dropped:
                self._weights.release()
        except _Dropped:
            self._failure = "nobody needs it any more"
        except Exception as error:  # vLLM raises whatever its libraries raise; the reload will say it again
            path, weights = self.source
            log.warning("the weights in %s could not be made ready beforehand", weights or path, exc_info=error)
            self._failure = f"{type(error).__name__}: {error}"

    def _while_needed(self, read: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Raises _Dropped."""
        for each in read:
            if self._is_dropped:
                raise _Dropped
            yield each

    def _made(self) -> SecondSet | HostSet:
        worker, model = self._worker, self._worker.model_runner.model
        file = self.source[1]
        if file is not None:
            read = self._while_needed(tensors_in(Path(file)))
        else:
            loader: Any = get_model_loader(worker.vllm_config.load_config)
            read = self._while_needed(loader.get_all_weights(self._config, model))
        if _is_on_accelerator(worker):
            torch.accelerator.set_device_index(worker.device)  # a thread has the first one otherwise
            return HostSet(worker, read, repack)
        weights = SecondSet(model)
        try:
            weights.fill(read, self._config, repack)
        except BaseException:
            weights.release()
            raise
        return weights


def obstacle_to_staging(worker: Any) -> str | None:
    """Why the worker's model takes other weights only while nobody is answered, or None where it need not."""
    if _is_on_accelerator(worker):
        return None
    return obstacle_to_second_set(worker.model_runner.model, worker.vllm_config)


def _is_on_accelerator(worker: Any) -> bool:
    return bool(worker.device.type != "cpu")
