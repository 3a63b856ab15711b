"""requirements/install, with programs in the place of pip and uv that say what they were called with."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/bin/bash
case "$*" in *"config list"*) cat "$CONFIG" ;; esac
"""
UV = """#!/usr/bin/env python3
import json, os, sys
named = {name: value for name, value in os.environ.items() if name.startswith("UV_") or name == "SSL_CERT_FILE"}
with open(os.environ["CALLED"], "w") as file:
    json.dump({"arguments": sys.argv[1:], "environment": named}, file)
"""
CONFIG = r"""
global.cert='/etc/ca.pem'
global.extra-index-url='https://u:s3cret@more.example/simple\nhttps://other.example/simple'
global.find-links='\n/wheels\nhttps://u:s3cret@files.example/'
global.index-url='https://u:s3cret@index.example/simple'
global.trusted-host='index.example'
"""


def test_credentials_of_indexes_are_on_no_command_line(tmp_path: Path) -> None:
    """Which everybody on the machine can read, unlike an environment."""
    there, venv = tmp_path / "stepserve", tmp_path / "venv"
    (there / "requirements").mkdir(parents=True)
    (there / "server").mkdir()
    (venv / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "requirements" / "install", there / "requirements" / "install")
    for name in ("pyproject.toml", "server/pyproject.toml", "requirements/cuda.lock"):
        (there / name).write_text("a==1\n")
    (there / "requirements" / "dev.lock").write_text("uv==1\n")
    (tmp_path / "pip").write_text(CONFIG)
    for name, program in (("python", PYTHON), ("uv", UV)):
        file = venv / "bin" / name
        file.write_text(program)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    told = {"STEPSERVE_DEVICE": "cuda", "CONFIG": str(tmp_path / "pip"), "CALLED": str(tmp_path / "called")}
    path = {"PATH": os.environ["PATH"]}
    subprocess.run([there / "requirements" / "install", venv], check=True, env=path | told, capture_output=True)
    called = json.loads((tmp_path / "called").read_text())
    assert "s3cret" not in str(called["arguments"])
    assert called["arguments"][-3:] == ["--allow-insecure-host", "index.example", "-rrequirements/cuda.lock"]
    assert called["environment"] == {
        "UV_INDEX_URL": "https://u:s3cret@index.example/simple",
        "UV_EXTRA_INDEX_URL": "https://u:s3cret@more.example/simple https://other.example/simple",
        "UV_FIND_LINKS": "/wheels,https://u:s3cret@files.example/",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
