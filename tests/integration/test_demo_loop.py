"""The demo's closed loop against a real control: only what models say is told, and what is trained is not asked."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import trainer
from demo.loop import EARLY, main
from demo.visit import Visit
from stepserve import Client
from stepserve.contract import BatchItem, BatchOutput
from tests.integration.public_server import PublicServer
from tests.integration.test_push import visit
from tests.unit.control.checkpoint_files import write_checkpoint


def knowing(share: float) -> Callable[[BatchItem], BatchOutput]:
    """Right on this share of additions where it is asked without chance, and on every other one by chance."""

    def answer(item: BatchItem) -> BatchOutput:
        assert item.messages is not None
        a, b = map(int, re.findall("[0-9]+", item.messages[-1].content))
        known = hashlib.sha256(f"{a}+{b}".encode()).digest()[0] < share * 256
        lucky = item.sampling is not None and item.sampling.temperature > 0
        return BatchOutput(text=str(a + b if known or lucky else 0), finish_reason="stop", completion_tokens=3)

    return answer


def begin(there: PublicServer, client: Client, *shares: float) -> None:
    """`own` is active; the loop's models know so much, the early checkpoint first."""
    write_checkpoint(there.layout.models / "own", 1)
    client.register_model("own", "t", activate=True)
    for number, share in enumerate(shares):
        there.gateway.answers[f"t-{number}"] = knowing(share)
        there.gateway.has_room_for.add(f"t-{number}")


def ended(there: PublicServer, *more: str) -> object:
    """The exit code of a small loop, or the sentence that it ends with."""
    small = ["--examples", "10", "--epochs", "1", "--exam", "60", "--sealed", "120", "--name", "t"]
    with pytest.raises(SystemExit) as caught:
        main(["--url", there.url, *small, *more])
    return caught.value.code


def as_before(there: PublicServer, client: Client) -> bool:
    folders = {path.name for path in there.layout.models.iterdir() if not path.name.startswith(".")}
    return (client.active_model().id, [model.id for model in client.list_models()], folders) == (
        "own",
        ["own"],
        {"own"},
    )


@pytest.mark.parametrize(
    ("host", "said"), [("http://127.0.0.1:9", "127.0.0.1:9"), ("http://127.0.0.1:port", "not the address of a server")]
)
def test_a_trainer_without_a_server_ends_with_a_sentence(host: str, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        trainer.main(["--host", host])
    assert said in str(caught.value.code)


def test_a_candidate_that_is_not_better_ends_the_loop_with_a_sentence(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        begin(there, client, 0.5, 0.5)
        said = ended(there)
        assert str(said).startswith("Round 1: t-1 is not promoted, but undecided: accuracy on math_eval"), said
        assert as_before(there, client)
        client.register_model("t-0", "t", path="models/own")
        assert "t-0 is on the server already" in str(ended(there))
        assert "t-0" in {model.id for model in client.list_models()}, "it is somebody else's"

    visit(tmp_path / "base", body, makes_data=True)


@pytest.mark.long
def test_the_loop_ends_at_its_goal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rounds; tests/e2e/test_loop.py has one with a real engine."""

    def body(there: PublicServer, client: Client) -> None:
        begin(there, client, 0.5, 0.8, 1.0)
        results = tmp_path / "loop.json"
        assert ended(there, "--results", str(results)) == 0
        first, second = json.loads(results.read_text())["rounds"]  # of three, since the goal is reached
        assert first["before"]["accuracy"] < first["after"]["accuracy"] < 0.99
        assert first["after"] == second["before"]
        assert second["after"]["accuracy"] == 1.0
        assert max(first["p"], second["p"]) < 0.05
        assert [(one["examples"], one["sealed_among_examples"]) for one in (first, second)] == [(10, 0)] * 2
        shown = capsys.readouterr().out
        assert re.search(r"^ +2 +100\.0% +9[0-9]\.[0-9]% to 100\.0% ", shown, re.MULTILINE), shown
        causes = [each.cause for each in client.list_activations()]
        assert causes[:2] == ["request", f"promotion {second['jobs']['promotion']}"]
        assert {shard.status for shard in client.list_shards()} == {"acknowledged"}
        assert as_before(there, client)

    visit(tmp_path / "base", body, makes_data=True)


def test_an_interrupted_visit_ends_its_jobs_and_takes_its_models_away(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        begin(there, client)
        client.put_dataset("d.jsonl", b'{"question": "What is 6+7?", "answer": "13"}\n')
        made: list[str] = []

        async def wait_for_ever(_: object) -> None:
            await asyncio.Event().wait()

        def interrupted() -> None:
            with Visit(client) as stay:
                stay.push(EARLY, "t-0", activate=True)
                made.append(client.eval_job("t-0", "exam", "d.jsonl").job_id)
                next(news for news in client.watch_job(made[0]) if news.status == "running")
                raise KeyboardInterrupt

        there.gateway.before_batch = wait_for_ever
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert client.get_job(made[0]).status == "cancelled"
        assert as_before(there, client)

    visit(tmp_path / "base", body)
