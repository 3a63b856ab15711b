"""A run's folder: whatever it is called, a file system takes the name, and two runs have two folders.

tensorboardX is not among what is installed here: a writer that makes the folder and a file stands for it.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Self

import pytest

from control.notifications.trackers.entry import Destination, Entry

MODULE = "control.notifications.trackers.tensorboard"


class SummaryWriter:
    def __init__(self, logdir: str, filename_suffix: str) -> None:
        Path(logdir).mkdir(parents=True, exist_ok=True)
        (Path(logdir) / f"events.out.tfevents{filename_suffix}").touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_scalar(self, name: str, value: float, step: int, *, walltime: float) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Destination, Entry], None]]:
    library = ModuleType("tensorboardX")
    monkeypatch.setattr(library, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboardX", library)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE).log
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize("run", ["r" * 200 + "/" + "m" * 128, "é" * 200, "r" * 300 + "/.."])
def test_runs_with_long_names_are_logged_each_in_a_folder(
    tmp_path: Path, log: Callable[[Destination, Entry], None], run: str
) -> None:
    for name in (run, f"{run}2"):
        log(Destination({}, tmp_path), Entry(name, 1, {"a": 1.0}, 0.0, f"event of {name}", "m"))
    assert [len(list(folder.iterdir())) for folder in tmp_path.iterdir()] == [1, 1]


def test_a_run_with_a_short_name_keeps_it(tmp_path: Path, log: Callable[[Destination, Entry], None]) -> None:
    log(Destination({}, tmp_path), Entry("nightly/step-300", 1, {"a": 1.0}, 0.0, "event", "m"))
    assert [folder.name for folder in tmp_path.iterdir()] == ["nightly_step-300"]
