"""`stepserve config` as a person runs it."""

import json
from pathlib import Path

from tests.integration.programs import REPOSITORY, stepserve

EXAMPLE = REPOSITORY / "config" / "stepserve.toml.example"


def test_show_says_where_each_value_is_from(tmp_path: Path) -> None:
    ended = stepserve(tmp_path, "config", "show", "--changed", "--json", port=9999, MAX_CACHE_MODELS="3")
    assert json.loads(ended.stdout) == {
        "base_dir": {"value": str(tmp_path), "origin": "INFERENCE_BASE_DIR"},
        "port": {"value": 9999, "origin": "INFERENCE_PORT"},
        "max_loaded_models": {"value": 3, "origin": "MAX_CACHE_MODELS"},
    }


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    good = stepserve(tmp_path, "config", "check", str(EXAMPLE))
    assert (good.returncode, good.stderr) == (0, "")
    assert str(EXAMPLE) in good.stdout
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "stepserve.toml").write_text("[engine]\nmax_num_seq = 3\n")
    bad = stepserve(tmp_path, "config", "check")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "engine.max_num_seq in " in bad.stderr
    assert "did you mean max_num_seqs?" in bad.stderr
