from pathlib import Path

from gateway.engine.process.log import LogMark

TRACE = """\
(EngineCore pid=1) ERROR 11-21 08:00:00 [core.py:1] Traceback (most recent call last):
(Worker pid=2) ERROR 11-21 08:00:00 [worker.py:1] ValueError: Unsupported head size: 24
(EngineCore pid=1) ERROR 11-21 08:00:00 [core.py:1] Exception: WorkerProc initialization failed due to an exception
RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_first_exception_is_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "gpu_worker.log"
    log.write_text("KeyError: an older engine's\n")
    mark = LogMark.now(log)
    with log.open("a") as file:
        file.write(TRACE)
    assert mark.root_cause() == "ValueError: Unsupported head size: 24"


def test_no_cause_is_none(tmp_path: Path) -> None:
    log = tmp_path / "gpu_worker.log"
    assert LogMark.now(log).root_cause() is None
    log.write_text("INFO all is well\nRuntimeError: Engine core initialization failed. See root cause above.\n")
    assert LogMark(log, 0).root_cause() is None


def test_the_last_words_of_an_engine_that_died(tmp_path: Path) -> None:
    log = tmp_path / "gpu_worker.log"
    mark = LogMark.now(log)
    assert mark.last_words() == "nothing is in gpu_worker.log about it"
    log.write_text("INFO the first step\n  terminate called without an active exception\n\n")
    assert mark.last_words() == "terminate called without an active exception"
    with log.open("a") as file:
        file.write("EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.\n")
        file.write(
            "(EngineCore pid=1) ERROR AttributeError: 'NoneType' object has no attribute 'fused_moe'\nINFO bye\n"
        )
    assert mark.last_words() == "AttributeError: 'NoneType' object has no attribute 'fused_moe'"
