"""In the worker: weights that are made ready, and what becomes of them when nobody needs them any more."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gateway.engine.process import staging as module
from gateway.engine.process.staging import Staging


class Tensor:
    def pin_memory(self) -> "Tensor":
        return self


def test_what_is_dropped_is_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch that it was for reads the same weights now, and memory may not hold them twice beside the model."""
    begun, dropped = threading.Event(), threading.Event()
    read: list[int] = []

    def weights(*_: Any) -> Iterator[tuple[str, Tensor]]:
        for number in range(1000):
            read.append(number)
            yield str(number), Tensor()
            begun.set()
            assert dropped.wait(240)

    monkeypatch.setattr(module, "get_model_loader", lambda _: SimpleNamespace(get_all_weights=weights))
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda _: None)
    config = SimpleNamespace(model_config=SimpleNamespace(), load_config=None)
    worker = SimpleNamespace(
        vllm_config=config, device=torch.device("cuda:0"), model_runner=SimpleNamespace(model=None)
    )
    staging = Staging(worker, "/models/b", None, [0])
    assert begun.wait(240)
    staging.drop()
    dropped.set()
    staging._thread.join(240)
    assert staging.is_over
    assert (read, staging.failure) == ([0, 1], "nobody needs it any more")
