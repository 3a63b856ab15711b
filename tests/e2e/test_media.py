"""URLs of pictures in requests, fetched by vLLM's own code: no other host is asked than settings name."""

import subprocess
import sys
from pathlib import Path

from tests.integration.raw_server import raw_server, reply

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000000000500"
    "01a5f645400000000049454e44ae426082"
)


def test_pictures_come_from_hosts_that_settings_name_and_from_no_other() -> None:
    """Or a client could let the server read what this machine can reach and the client cannot."""
    with raw_server(lambda _, __: reply(PIXEL, kind="image/png")) as (url, seen):
        moved = reply(b"", "302 Found", location=f"{url}/moved.png")
        with raw_server(lambda _, __: moved) as (mover, _):
            asked = [f"{url}/1.png", f"{url}/2.png example.com", f"{mover}/3.png 127.0.0.1", "file:///etc/passwd"]
            program = [sys.executable, "-m", "tests.e2e.media_run", *asked, f"{url}/4.png 127.0.0.1"]
            done = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("fetched ") or "Error" in line]
    assert len(said) == 5, done.stdout
    assert "INFERENCE_ENGINE__MEDIA_DOMAINS" in said[0]
    assert "must be from one of the allowed domains" in said[1]
    assert not any(line.startswith("fetched") for line in said[:4]), said
    assert seen == ["GET /4.png"], said
