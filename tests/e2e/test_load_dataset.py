"""Shards as the libraries that trainers use read them, over HTTP: `datasets` and TRL's formats. No engine."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from control.database.database import Database, url_of
from control.shards.book import ShardBook
from datagen.records import Alternative, Draft, Format, Origin, Turn, record_of
from datagen.shards import ShardWriter
from stepserve.contract import BatchSampling
from tests.e2e.environments import python_with, run
from tests.e2e.server import REPOSITORY
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import FullStack, run_story

ROWS = 2500  # more than a row group of Parquet
LIMIT_S = 240.0

READS = """
import json, sys
from datasets import load_dataset
base, names = sys.argv[1], json.loads(sys.argv[2])
key = {"client_kwargs": {"headers": {"Authorization": f"Bearer {sys.argv[3]}"}}}

def loaded(format_, kind, **more):
    suffix = {"json": ".jsonl", "parquet": ".parquet"}[kind]
    files = [f"{base}/shards/{name.removesuffix('.jsonl')}{suffix}" for name in names[format_]]
    return load_dataset(kind, data_files=files, split="train", storage_options=key, **more)

def same(format_):
    lines, columns = loaded(format_, "json"), loaded(format_, "parquet")
    assert lines.features == columns.features, (lines.features, columns.features)
    assert lines[:] == columns[:]
    assert next(iter(loaded(format_, "parquet", streaming=True))) == lines[0]
    return lines
"""
MESSAGES = """
messages = same("messages")
print(json.dumps({"rows": len(messages), "ids": len(set(messages["id"])), "first": messages[0]["messages"]}))
"""
PREFERENCES = """
from trl.data_utils import is_conversational, unpair_preference_dataset
pairs, judged = same("dpo"), same("kto")
assert all(is_conversational(each[0]) for each in (pairs, judged))
unpaired = unpair_preference_dataset(pairs.select_columns(["prompt", "chosen", "rejected"]))
print(json.dumps({
    "rows": [len(pairs), len(judged), len(unpaired)],
    "pair": {key: pairs[0][key] for key in ("prompt", "chosen", "rejected")},
    "labels": judged["label"][:3],
    "completion": judged[0]["completion"],
}))
"""


def record(number: int) -> dict[str, Any]:
    turns = (Turn("user", f"What is {number}+1?"), Turn("assistant", str(number + 1)))
    draft = Draft(
        turns, str(number), "0" * 64, BatchSampling(seed=number), "stop", "executed", 1.0, str(number + 1),
        alternatives=(Alternative(str(number), 0.5, passed=False), Alternative("none", 0.0, passed=False)),
    )  # fmt: skip
    origin = Origin("job", "best_of_n", "", "m", "sha256:m")
    return record_of(draft, origin, created_at="2025-11-22T05:30:00.000000+00:00", max_similarity=0.0)


def day() -> datetime:
    return datetime(2025, 11, 22, tzinfo=UTC)


async def publish(base: Path, format_: Format, sizes: list[int]) -> list[str]:
    settings = settings_of(base)
    database = Database(url_of(settings))
    run_dir = settings.layout.runs / "data_gen" / format_
    run_dir.mkdir(parents=True)
    writer = ShardWriter(
        ShardBook(database), base, settings.layout.models, run_dir, "train_shards_out", format_, format_,
        parquet=True, now=day,
    )  # fmt: skip
    records = [record(number) for number in range(sum(sizes))]
    try:
        return [
            (await writer.publish(ordinal, records[sum(sizes[:ordinal]) : sum(sizes[: ordinal + 1])])).name
            for ordinal in range(len(sizes))
        ]
    finally:
        await database.close()


async def read(there: FullStack, code: str, folder: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    """What `code` prints, in an environment with TRL and `datasets`."""
    python = python_with("trl", beside_ours=True)
    key = await there.key(scopes=["jobs"])
    refused = [(await there.http.head(f"/shards/{name}")).status_code for each in names.values() for name in each]
    assert set(refused) == {401}
    command = [str(python), "-c", READS + code, there.url, json.dumps(names), key]
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(folder / "hf")}
    seen: dict[str, Any] = json.loads((await asyncio.to_thread(run, command, LIMIT_S, environment)).splitlines()[-1])
    return seen


def test_datasets_reads_shards_where_they_are_served(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        names = {"messages": await publish(tmp_path / "base", "messages", [ROWS, 3])}
        seen = await read(there, MESSAGES, tmp_path, names)
        assert (seen["rows"], seen["ids"]) == (ROWS + 3, ROWS + 3)
        assert [turn["content"] for turn in seen["first"]] == ["What is 0+1?", "1"]

    run_story(tmp_path / "base", story)


@pytest.mark.long  # TRL takes ten seconds to import; tests/unit/datagen/test_best_of_n.py has the columns' names
def test_trl_takes_pairs_and_labels_where_they_are_served(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        base = tmp_path / "base"
        names = {"dpo": await publish(base, "dpo", [20]), "kto": await publish(base, "kto", [20])}
        seen = await read(there, PREFERENCES, tmp_path, names)
        assert seen["rows"] == [20, 60, 40]
        assert seen["pair"] == {
            "prompt": [{"role": "user", "content": "What is 0+1?"}],
            "chosen": [{"role": "assistant", "content": "1"}],
            "rejected": [{"role": "assistant", "content": "none"}],
        }
        assert seen["labels"] == [True, False, False]
        assert seen["completion"] == [{"role": "assistant", "content": "1"}]

    run_story(tmp_path / "base", story)
