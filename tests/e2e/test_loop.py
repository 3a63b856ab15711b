"""The closed loop in its short form: an early checkpoint earns the switch by what it learnt from its own failures."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loop import EXAM, main
from stepserve import Client
from tests.e2e.server import FINAL_ID, Server


@pytest.fixture
def exam_dataset(server: Server) -> Iterator[None]:
    """Gone afterwards, so that no later test's examples are taken for its questions."""
    yield
    (server.base_dir / "datasets" / EXAM).unlink()


@pytest.mark.usefixtures("exam_dataset")
def test_a_round_of_the_loop_makes_a_better_model_serve(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "loop.json"
    sizes = ["--rounds", "1", "--examples", "100", "--epochs", "15", "--exam", "200", "--sealed", "400"]
    with pytest.raises(SystemExit) as ended:
        main(["--url", server.url, *sizes, "--results", str(results)])
    assert ended.value.code == 0
    (one,) = json.loads(results.read_text())["rounds"]
    assert one["after"]["accuracy"] > one["before"]["accuracy"] + 0.05
    assert one["p"] < 0.05
    assert (one["after"]["questions"], one["examples"], one["sealed_among_examples"]) == (400, 100, 0)
    low, high = one["after"]["interval"]
    assert low < one["after"]["accuracy"] < high
    told = capsys.readouterr().out
    assert f"{one['after']['accuracy']:.1%}" in told.splitlines()[-2], "the figure's last row"

    with Client(server.url) as client:
        assert client.active_model().id == FINAL_ID
        assert not any(model.id.startswith("loop-") for model in client.list_models())
        switches = client.list_activations(limit=2)
        assert [entry.cause for entry in switches] == ["request", f"promotion {one['jobs']['promotion']}"]
        assert {shard.status for shard in client.list_shards(job_id=one["jobs"]["data_gen"])} == {"acknowledged"}
