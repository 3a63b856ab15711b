"""`switchyard config` as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "switchyard.toml.example"


def switchyard(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    return subprocess.run(
        [sys.executable, "-c", "from client.cli import main; main()", "config", *arguments],
        cwd=folder,
        env=bare
        | {"INFERENCE_BASE_DIR": str(folder), "PYTHONPATH": str(EXAMPLE.parents[1]), "COLUMNS": "200"}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_show_says_where_each_value_is_from(tmp_path: Path) -> None:
    ended = switchyard(tmp_path, "show", "--changed", "--json", INFERENCE_PORT="9999", MAX_CACHE_MODELS="3")
    assert json.loads(ended.stdout) == {
        "base_dir": {"value": str(tmp_path), "origin": "INFERENCE_BASE_DIR"},
        "port": {"value": 9999, "origin": "INFERENCE_PORT"},
        "max_loaded_models": {"value": 3, "origin": "MAX_CACHE_MODELS"},
    }


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    good = switchyard(tmp_path, "check", str(EXAMPLE))
    assert (good.returncode, good.stderr) == (0, "")
    assert str(EXAMPLE) in good.stdout
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "switchyard.toml").write_text("[engine]\nmax_num_seq = 3\n")
    bad = switchyard(tmp_path, "check")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "engine.max_num_seq in " in bad.stderr
    assert "did you mean max_num_seqs?" in bad.stderr
