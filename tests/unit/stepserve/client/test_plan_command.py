"""`stepserve plan`, with the demo's checkpoint and machines that are not there."""

import json
from pathlib import Path

from typer.testing import CliRunner

from stepserve.client.cli import app

DEMO = Path(__file__).resolve().parents[4] / "demo" / "checkpoints" / "step-1500"


def test_a_plan_as_json() -> None:
    done = CliRunner().invoke(app, ["plan", str(DEMO), str(DEMO), "--devices", "2x24GB", "--json"])
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.output)
    assert first["devices"] == second["devices"] == ["0"], "small ones share a card"
    assert first["weights_bytes"] == (DEMO / "model.safetensors").stat().st_size
    assert first["reason"] is None


def test_what_does_not_fit_is_said_and_is_no_success() -> None:
    done = CliRunner().invoke(app, ["plan", str(DEMO), "--devices", "0.5GB"])
    assert done.exit_code == 1
    assert "needs 1" in done.output
    assert "the emptiest has 0.5 GB left" in done.output


def test_what_cannot_be_planned(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(tmp_path), "--devices", "24"])
    assert done.exit_code == 2
    assert "cannot be planned" in done.output
    assert CliRunner().invoke(app, ["plan", str(DEMO), "--devices", "many"]).exit_code == 2


def test_this_machine() -> None:
    assert CliRunner().invoke(app, ["plan", str(DEMO)]).exit_code == 0
