"""Whether the web UI is started, with what, and what is said where it is not."""

import pytest
from pydantic import ValidationError

from stepserve import web_ui
from stepserve.access_settings import AccessSettings
from stepserve.settings import Settings


def test_it_is_not_started_when_it_is_switched_off() -> None:
    off = Settings(ui=False)
    assert web_ui.child_of(off) is None
    assert "switched off" in str(web_ui.unavailable(off, "localhost"))


def test_readers_elsewhere_are_told_how_to_reach_one_that_listens_here_alone() -> None:
    assert web_ui.unavailable(Settings(), "127.0.0.1") is None
    assert "ssh -L 8501:localhost:8501 box" in str(web_ui.unavailable(Settings(), "box"))


def test_it_is_not_opened_to_a_network_while_no_key_may_be_demanded() -> None:
    with pytest.raises(ValidationError, match=r"access\.mode"):
        Settings(ui_host="0.0.0.0")
    keys = AccessSettings(mode="keys")
    assert web_ui.unavailable(Settings(ui_host="0.0.0.0", access=keys), "box") is None


def test_the_address_is_what_the_reader_calls_this_machine() -> None:
    assert web_ui.url_of(Settings(ui_port=9000), "box") == "http://box:9000"
    assert web_ui.url_of(Settings(), "::1") == "http://[::1]:8501"
