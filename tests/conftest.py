"""What all tests share: when a run ends, and how."""

import os
import time
from collections.abc import Generator

import pytest

UNTIL_VARIABLE = "TESTS_UNTIL"
_MESSAGE_CHARACTERS = 400


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what has not begun when the run's time is over: in seconds since 1970, and no end where it is not set.

    A machine may be ten times slower than another one. Then the tests that come first have to do.
    """
    until = os.environ.get(UNTIL_VARIABLE)
    if until is not None and time.time() > float(until):
        pytest.skip(f"the time for this run of tests is over ({UNTIL_VARIABLE}); `make test` has none")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Names what failed once more after all else, in a line each: whoever sees only a log's end sees it. So it does
    with what passed when it was run again, each a defect to be found.

    One of several worker processes has no terminal; the process that started them tells for all.
    """
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    assert isinstance(terminal, pytest.TerminalReporter)
    failed = [*terminal.getreports("failed"), *terminal.getreports("error")]
    names = {report.nodeid for report in failed}
    reasons = {_reason(report) for report in failed}
    for report in terminal.getreports("rerun"):
        if report.nodeid not in names:
            terminal.line(f"flaky: {report.nodeid}: {_reason(report)}")
        elif _reason(report) not in reasons:  # the second try may have met nothing but what the first one left
            terminal.line(f"at first: {report.nodeid}: {_reason(report)}")
    for report in failed:
        terminal.line(f"{report.nodeid}: {_reason(report)}")


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join((crash.message if crash else str(report.longrepr)).split())[:_MESSAGE_CHARACTERS]
