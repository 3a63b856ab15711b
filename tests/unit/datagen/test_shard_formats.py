"""Shards as readers of columns see them: one schema for every row of every job."""

from pathlib import Path

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from datagen.parquet import write_parquet
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of

ROWS = [{"word": word} for word in ("yes", "no", "maybe", "never", "often")]
SUMS = [{"a": a, "b": 30} for a in range(10, 18)]


def test_a_reader_that_guesses_the_schema_of_each_file_guesses_one(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path)
    echo = SayingEngine(lambda item: f"You want {prompt_of(item)}")
    run_setup.run(echo, "custom", template="Say {{word}}.", rows=ROWS, shard_size=2, parquet=True)
    adder = SayingEngine(lambda item: str(sum(int(part) for part in prompt_of(item)[8:-1].split("+"))))
    template = "What is {{a}}+{{b}}?"
    run_setup.run(adder, "custom", job="data_gen_2", template=template, rows=SUMS, verify="executed", domain="math")
    tables = [pj.read_json(path) for path in sorted(run_setup.layout.shards.glob("*.jsonl"))]
    assert len(tables) == 4
    assert {table.schema for table in tables} == {tables[0].schema}
    assert pa.concat_tables(tables).num_rows == 13
    for path in sorted(run_setup.layout.shards.glob("*.parquet")):
        assert pq.read_table(path).to_pylist() == pj.read_json(path.with_suffix(".jsonl")).to_pylist()
    assert len(list(run_setup.layout.shards.glob("*.parquet"))) == 3


def test_a_parquet_file_of_many_rows_has_groups_of_one_schema(tmp_path: Path) -> None:
    rows = [
        {"id": str(number), "messages": [{"role": "user", "content": "x" * (number % 7)}]} for number in range(2500)
    ]
    write_parquet(tmp_path / "shard.parquet", rows)
    file = pq.ParquetFile(tmp_path / "shard.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [1000, 1000, 500]
    assert file.read().to_pylist() == rows
