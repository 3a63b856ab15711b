"""samples.jsonl: one line a sample, appended as answers come; a later attempt recovers it."""

from collections.abc import Iterator
from pathlib import Path

from evals.record import SampleRecord
from stepserve.jobs.jsonl_log import JsonlLog, whole_records

SAMPLES_FILE = "samples.jsonl"


def open_samples(path: Path) -> JsonlLog[SampleRecord]:
    return JsonlLog(path, _encode, SampleRecord.model_validate_json)


def read_records(path: Path) -> Iterator[SampleRecord]:
    """The whole records of a finished run, each id once. Blocks; raises FileNotFoundError."""
    seen: set[str] = set()
    for record in whole_records(path, SampleRecord.model_validate_json):
        if record.id not in seen:
            seen.add(record.id)
            yield record


def _encode(record: SampleRecord) -> bytes:
    return record.model_dump_json(exclude_defaults=True).encode()
