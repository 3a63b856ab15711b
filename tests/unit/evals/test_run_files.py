import json
from pathlib import Path

import pytest

from evals.run_files import read_json, write_json


def test_written_and_read_back_with_nothing_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 0.1, "name": "caf\u00e9"})
    write_json(path, {"accuracy": 0.2, "name": "caf\u00e9"})
    assert read_json(path) == {"accuracy": 0.2, "name": "caf\u00e9"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"accuracy": 0.1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"accuracy": float("nan")})
    assert json.loads(path.read_text()) == {"accuracy": 0.1}


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "metrics.json") is None
