"""LiteLLM against the server, in a virtual environment of its own: it wants an older openai SDK than there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import REPOSITORY, Server

pytestmark = pytest.mark.long

VERSION = "1.106.2"
HOME = REPOSITORY / f".venv-litellm-{VERSION}"
PROGRAM = """
import json, sys
import litellm
litellm.telemetry = False
url = sys.argv[1]
asked = {"messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0}
whole = litellm.completion(model="openai/active", api_base=f"{url}/v1", api_key="none", **asked)
pieces = litellm.completion(model="openai/active", api_base=f"{url}/v1", api_key="none", stream=True, **asked)
ollama = litellm.completion(model="ollama_chat/active", api_base=url, **asked)
try:
    litellm.completion(model="openai/nobody", api_base=f"{url}/v1", api_key="none", **asked)
    refused = ""
except litellm.NotFoundError as error:
    refused = str(error)
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "pieces": "".join(piece.choices[0].delta.content or "" for piece in pieces),
    "ollama": ollama.choices[0].message.content,
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Made once, and kept."""
    program = HOME / "bin" / "python"
    if not (HOME / ".complete").exists():
        uv = Path(sys.executable).with_name("uv")
        try:
            subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, HOME], check=True, timeout=240)
            install = [str(uv), "pip", "install", "-q", "--python", str(program), f"litellm=={VERSION}"]
            subprocess.run(install, check=True, timeout=240, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no virtual environment with litellm {VERSION}: {getattr(error, 'stderr', None) or error}")
        (HOME / ".complete").touch()
    return program


def test_litellm(server: Server, python: Path) -> None:
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "PATH": "/usr/bin:/bin"}
    answered = subprocess.run(
        [python, "-c", PROGRAM, server.url], capture_output=True, text=True, timeout=240, check=False, env=environment
    )
    assert answered.returncode == 0, answered.stderr
    said = json.loads(answered.stdout.splitlines()[-1])
    assert (said["whole"], said["pieces"], said["ollama"]) == ("42", "42", "42")
    assert "nobody" in said["refused"]
