"""Logs and settings on the page System."""

import pytest

from tests.ui.page import cells, opened, words
from tests.ui.ui_server import UiServer


@pytest.fixture(autouse=True)
def _filled_server(filled_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", filled_server.url)


def test_lines_of_a_log_are_chosen_by_text_and_level(filled_server: UiServer) -> None:
    log = filled_server.settings.layout.logs / "jobs.log"
    log.parent.mkdir(exist_ok=True)
    lines = [
        '{"time": "2026-01-01T12:00:00+00:00", "level": "INFO", "component": "jobs", "message": "eval_1 began"}',
        '{"time": "2026-01-01T12:00:01+00:00", "level": "ERROR", "component": "jobs", "message": "eval_2 failed"}',
        "a line of the engine's own about eval_1",
    ]
    log.write_text("".join(f"{line}\n" for line in lines))
    page = opened("system", tab="Logs", system_log="jobs")
    assert page.code[0].value.count("eval_") == 3
    page.text_input(key="system_log_filter").set_value("EVAL_1").run()
    assert page.code[0].value.endswith("jobs eval_1 began\na line of the engine's own about eval_1")
    assert "2 of 2 that fit, among the newest 3 lines." in words(page)
    page.text_input(key="system_log_filter").set_value("").run()
    page.selectbox(key="system_level").select("ERROR and worse").run()
    assert page.code[0].value.endswith("eval_2 failed")
    assert "eval_1" not in page.code[0].value


def test_settings_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_MAX_CONCURRENT_JOBS", "1")
    page = opened("system", tab="Settings")
    assert {row["setting"]: row["from"] for row in cells(page)}[
        "max_concurrent_jobs"
    ] == "INFERENCE_MAX_CONCURRENT_JOBS"
    page.toggle(key="system_changed").set_value(False).run()
    page.text_input(key="system_setting").set_value("TELEMETRY.").run()
    assert {row["from"] for row in cells(page)} == {"default"}
    assert all(row["setting"].startswith("telemetry.") for row in cells(page))
