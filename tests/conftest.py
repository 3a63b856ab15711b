"""What all tests share: how a run ends."""

from collections.abc import Generator

import pytest

_MESSAGE_CHARACTERS = 400


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Names what failed once more after all else, in a line each: whoever sees only a log's end sees it.

    One of several worker processes has no terminal; the process that started them tells for all.
    """
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return
    assert isinstance(terminal, pytest.TerminalReporter)
    for report in (*terminal.getreports("failed"), *terminal.getreports("error")):
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = " ".join((crash.message if crash else str(report.longrepr)).split())
        terminal.line(f"{report.nodeid}: {reason[:_MESSAGE_CHARACTERS]}")
