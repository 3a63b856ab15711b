import json
import math
from pathlib import Path

import pytest

from evals.record import SampleRecord, record_of
from evals.sample import Sample
from evals.samples_log import open_samples, read_records
from stepserve.contract import BatchOutput

SAMPLE = Sample(id="7", index=6, format="question_answer", input="2+2?\u2028", target="4", metadata={})


def _record(output: BatchOutput) -> SampleRecord:
    return record_of(SAMPLE, output, "sha256:aa")


RIGHT = BatchOutput(
    text="4.0",
    finish_reason="stop",
    prompt_tokens=9,
    completion_tokens=3,
    latency_s=0.5,
    reference_logprob=-0.3,
    reference_tokens=2,
)


def test_a_line_has_every_field(tmp_path: Path) -> None:
    with open_samples(tmp_path / "samples.jsonl") as log:
        log.append([_record(RIGHT)])
    lines = (tmp_path / "samples.jsonl").read_bytes().split(b"\n")
    assert lines[1:] == [b""]
    assert json.loads(lines[0]) == {
        "id": "7",
        "index": 6,
        "input": "2+2?\u2028",
        "target": "4",
        "prediction": "4.0",
        "extracted": None,
        "correct": False,
        "score": 0.0,
        "finish_reason": "stop",
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "latency_s": 0.5,
        "loss": 0.15,
        "reference_logprob": -0.3,
        "reference_tokens": 2,
        "model_digest": "sha256:aa",
        "error": None,
    }


def test_an_engine_error_is_not_scored() -> None:
    record = _record(BatchOutput(error="too long"))
    assert (record.correct, record.score, record.loss, record.error) == (False, 0.0, None, "too long")


@pytest.mark.parametrize(("logprob", "tokens"), [(-math.inf, 2), (math.nan, 2), (-1.0, 0), (None, 2)])
def test_a_logprob_that_is_no_number_counts_as_none(logprob: float | None, tokens: int) -> None:
    record = _record(RIGHT.model_copy(update={"reference_logprob": logprob, "reference_tokens": tokens}))
    assert (record.loss, record.reference_logprob, record.reference_tokens) == (None, None, 0)


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    logprobs = [-math.pi * 10.0**power / 7 for power in range(-12, 13)] + [-0.1, -1 / 3, -5e-324, -1e22]
    with open_samples(tmp_path / "samples.jsonl") as log:
        log.append(_record(RIGHT.model_copy(update={"reference_logprob": logprob})) for logprob in logprobs)
        assert [record.reference_logprob for record in log.recover()] == logprobs


def test_a_finished_run_is_read_with_each_sample_once(tmp_path: Path) -> None:
    with open_samples(tmp_path / "samples.jsonl") as log:
        log.append([_record(RIGHT), _record(RIGHT)])
    assert list(read_records(tmp_path / "samples.jsonl")) == [_record(RIGHT)]


@pytest.mark.parametrize("torn", [b'{"id": "8", "ind', b"\n", b"\0\0\0\0\n\0\0", b'{"id": "8"}\n'])
def test_what_follows_the_last_whole_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "samples.jsonl"
    with open_samples(path) as log:
        log.append([_record(RIGHT), _record(RIGHT)])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with open_samples(path) as log:
        assert len(list(log.recover())) == 2
        assert path.read_bytes() == whole
        log.append([_record(RIGHT)])
    assert path.read_bytes() == whole + whole[: len(whole) // 2]
