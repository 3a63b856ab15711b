"""Engines on a GPU are spawned; the platform is a fake, since vLLM takes this machine's."""

import os
import warnings

import pytest

from gateway.engine.process.start_method import VARIABLE, ensure_start_method
from gateway.errors import EngineStartFailed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import vllm.platforms
    from vllm import envs
    from vllm.utils.system_utils import get_mp_context


class Platform:
    def __init__(self, *, is_cpu: bool) -> None:
        self._is_cpu = is_cpu

    def is_cpu(self) -> bool:
        return self._is_cpu


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(vllm.platforms, "current_platform", Platform(is_cpu=False), raising=False)
    monkeypatch.setenv(VARIABLE, "fork")  # so that it is put back whatever happens
    return monkeypatch


def test_an_engine_on_a_gpu_is_spawned(with_gpu: pytest.MonkeyPatch) -> None:
    with_gpu.delenv(VARIABLE)
    assert envs.VLLM_WORKER_MULTIPROC_METHOD == "fork", "vLLM's own default, which is why this is needed"
    ensure_start_method()
    assert get_mp_context().get_start_method() == "spawn"


def test_a_fork_is_refused_with_the_variable_that_asks_for_it(with_gpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineStartFailed, match=f"{VARIABLE} is fork: unset it"):
        ensure_start_method()


def test_without_a_gpu_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.platforms, "current_platform", Platform(is_cpu=True), raising=False)
    monkeypatch.setenv(VARIABLE, "fork")
    ensure_start_method()
    assert os.environ[VARIABLE] == "fork"
