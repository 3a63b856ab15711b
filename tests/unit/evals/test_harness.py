"""What stands between a harness and its job: answers that are kept, task files, command lines, the leash."""

import json
import os
import sys
from pathlib import Path

import pytest

from evals.harness.inspect_ai import InspectAi
from evals.harness.kept_answers import KeptAnswers, key_of
from evals.harness.lm_eval import LmEval
from evals.harness.order import HarnessOrder
from evals.harness.process import HarnessProcess, ProcessLimits
from evals.harness.request import TaskOptions, TaskSpec
from evals.harness.task_files import TaskFiles
from stepserve.contract import ModelRef
from stepserve.jobs.errors import BadJob, NotFound

LIMITS = ProcessLimits(memory_bytes=2**33, file_bytes=2**20)


def test_an_answer_is_given_once_in_each_attempt(tmp_path: Path) -> None:
    file, key = tmp_path / "answers.jsonl", key_of("/v1/completions", {"prompt": "1", "n": 1})
    assert key == key_of("/v1/completions", {"n": 1, "prompt": "1"}) != key_of("/v1/completions", {"prompt": "2"})
    with KeptAnswers(file) as answers:
        assert answers.take(key) is None
        answers.add(key, {"text": "a"})
        answers.add("other", {"text": "ä"})
        answers.add(key, {"text": "b"})
        assert answers.take(key) is None, "what was asked in this attempt is another sample each time"
    file.write_bytes(file.read_bytes() + b'{"key": "torn')
    with KeptAnswers(file) as answers:
        assert [answers.take(key) for _ in range(3)] == [{"text": "a"}, {"text": "b"}, None]
        answers.add(key, {"text": "c"})
    with KeptAnswers(file, most_bytes=1) as answers:
        answers.add(key, {"text": "d"})
        assert [answers.take(key) for _ in range(4)] == [{"text": text} for text in "abc"] + [None]
        assert answers.take("other") == {"text": "ä"}


def test_a_task_is_its_folder(tmp_path: Path) -> None:
    files = TaskFiles(tmp_path)
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "sums.yaml").write_text("a: 1")
    (tmp_path / "alone.py").write_text("")
    assert files.listing() == [("alone.py", "inspect"), ("sums/sums.yaml", "lm_eval")]
    alone, first = files.find("alone.py"), files.find("sums/sums.yaml")
    (tmp_path / "sums" / "__pycache__").mkdir()
    (tmp_path / "sums" / "__pycache__" / "x.pyc").touch()
    assert files.find("sums/sums.yaml").digest == first.digest
    (tmp_path / "sums" / "data.jsonl").write_text("{}")
    assert files.find("sums/sums.yaml").digest != first.digest
    assert files.find("alone.py").digest == alone.digest
    for wrong in ("", "..", "/etc/passwd", "sums", "a\0b", "x" * 5000):
        with pytest.raises(NotFound, match=r"task\.file"):
            files.find(wrong)


def order(tmp_path: Path, task: TaskSpec, options: TaskOptions) -> HarnessOrder:
    model = ModelRef(id="a,b=c", path="/m", digest="sha256:m")
    return HarnessOrder(
        Path("/e/bin/python"), task, tmp_path / task.file, options, model, 512, 8, "http://h:1", "k", tmp_path
    )


def test_command_lines_say_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    plain = LmEval().command(order(tmp_path, TaskSpec(file="a.yaml"), TaskOptions()))
    model = json.loads(plain[plain.index("--model_args") + 1])
    assert (model["model"], model["base_url"], model["max_length"]) == ("a,b=c", "http://h:1/v1/completions", 512)
    assert plain[plain.index("--batch_size") + 1] == "8", "no more prompts than a request may have"
    assert not {"--limit", "--num_fewshot", "--seed", "--gen_kwargs", "--apply_chat_template"} & set(plain)
    options = TaskOptions(max_samples=5, num_fewshot=0, seed=0, max_tokens=9, temperature=0.5)
    asked = LmEval().command(order(tmp_path, TaskSpec(file="a.yaml", chat=True), options))
    assert [asked[asked.index(flag) + 1] for flag in ("--limit", "--num_fewshot", "--seed")] == ["5", "0", "0"]
    sampling = json.loads(asked[asked.index("--gen_kwargs") + 1])
    assert sampling == {"max_gen_toks": 9, "temperature": 0.5, "do_sample": True}
    task = TaskSpec(file="a.py", name="sums", args={"level": "--log-dir=/"})
    inspect = InspectAi().command(order(tmp_path, task, TaskOptions(max_samples=5)))
    assert "a.py@sums" in inspect
    assert "--log-dir=/" not in inspect, "arguments go by a file"
    assert json.loads((tmp_path / "args.json").read_text()) == {"level": "--log-dir=/"}


def test_one_log_is_taken_in_and_several_are_refused(tmp_path: Path) -> None:
    for program, name in ((LmEval(), "m/samples_a.jsonl"), (InspectAi(), "log.json")):
        with pytest.raises(BadJob, match="without"):
            program.log(tmp_path)
        log = tmp_path / "out" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        assert program.log(tmp_path) == log
        log.with_stem("samples_b").touch()
        with pytest.raises(BadJob, match="a run is of one"):
            program.log(tmp_path)


@pytest.mark.parametrize(("program", "code"), [("exit 3", 3), ("kill -TERM $$", 143), ("true", 0)])
async def test_the_leash_passes_on_how_the_program_ended(tmp_path: Path, program: str, code: int) -> None:
    command = ["/bin/sh", "-c", f"echo said >&2; {program}"]
    process = await HarnessProcess.start(command, {"PATH": os.environ["PATH"]}, tmp_path, LIMITS, tmp_path / "log")
    try:
        assert await process.wait() == code
    finally:
        await process.end()
    assert process.last_words.startswith("said")
    assert (tmp_path / "log").read_text().startswith("said")


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = await HarnessProcess.start(["/none"], {}, tmp_path, LIMITS, tmp_path / "log")
    try:
        assert await process.wait() == 127
    finally:
        await process.end()
    assert "/none cannot be started" in process.last_words


async def test_it_starts_with_nothing_of_ours_and_bounded(tmp_path: Path) -> None:
    code = "import os, resource; print(sorted(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE)[0], os.getcwd())"
    command = [sys.executable, "-I", "-c", code]
    process = await HarnessProcess.start(command, {"A": "b"}, tmp_path, LIMITS, tmp_path / "log")
    try:
        assert await process.wait() == 0
    finally:
        await process.end()
    assert process.last_words == f"['A', 'LC_CTYPE'] {2**20} {tmp_path}"
