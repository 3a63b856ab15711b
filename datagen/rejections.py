"""Why things did not become examples, a page at a time: implements stepserve.jobs.datagen_ports.DataGenReports."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from datagen.attempts_log import LOG_FILE
from datagen.quality.report import REPORT_FILE
from evals.run_files import read_json
from stepserve.jobs.datagen_ports import RejectionQuery
from stepserve.jobs.errors import Conflict, Invalid

MOST_BYTES_READ: Final = 32 * 1024**2
"""For one page: a reason that is rare may take several, the first ones empty."""

_MOST_DIGITS: Final = 18  # of a place in a file

_WHY: Final[Mapping[str, str]] = {
    "already_solved": "the model that is to learn answers it right without sampling",
    "contaminated": "gives away sample {sample} of the dataset {dataset}",
    "contradicting_instances": "the same input has several outputs",
    "duplicate": "the same as {like} of this job",
    "duplicate_of_earlier_shard": "the same as {like} of an earlier shard",
    "empty_instance": "the output is empty, repeats the input or ends with a colon",
    "empty_list": "{why} has no items",
    "engine_error": "the engine refused it: {why}",
    "instruction_begins_with_punctuation": "the instruction begins with punctuation",
    "instruction_not_for_text": "the instruction is about pictures, files or sound",
    "instruction_too_long": "the instruction has more than 150 words",
    "instruction_too_short": "the instruction has fewer than 3 words",
    "instruction_write_a_program": "the instruction begins with 'Write a program'",
    "is_an_eval_question": "the variant is a question of the eval",
    "judge": "the judge {why}",
    "judge_without_mark": "the judge gave no mark: {why}",
    "near_duplicate": "ROUGE-L of {similarity} to {like} of this job",
    "near_duplicate_of_earlier_shard": "ROUGE-L of {similarity} to {like} of an earlier shard",
    "no_contrast": "{why}",
    "no_gold": "the row has no answer",
    "no_instance": "the model wrote no instance of the task",
    "no_instruction": "the model wrote no task",
    "no_list": "{why}",
    "no_majority": "the largest camp of solutions that agree is {share} of them",
    "no_numbers_to_change": "the question has no numbers to change",
    "no_right_solution": "no solution comes to {gold}",
    "no_variant": "the model wrote no variant of the question",
    "not_executable": "the question is not plain arithmetic",
    "not_json": "the answer is not valid JSON",
    "not_verified": "{verifier}: {why}",
    "schema": "the answer does not fit the schema: {why}",
    "second_opinion_differs": "the second prompt does not come to {majority}",
    "template_failed": "the template fails: {why}",
    "too_many_items": "{why} items are beyond the most that the column takes",
    "truncated": "cut off at max_tokens",
    "unparsed": "no final answer in it",
    "verifier_hung": "{verifier}: {why}",
}


class _Details(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return f"({key} was not noted)"


def why(reason: str, detail: Mapping[str, str]) -> str:
    """A sentence for a person; of an installed filter or strategy what it said itself."""
    known = _WHY.get(reason)
    return detail.get("why", reason) if known is None else known.format_map(_Details(detail))


class RunReports:
    async def rejected(self, run_dir: Path, wanted: RejectionQuery) -> dict[str, Any]:
        return await asyncio.to_thread(page, run_dir, wanted)


def page(run_dir: Path, wanted: RejectionQuery) -> dict[str, Any]:
    """`next` is null after the last one; `by_reason` counts the whole job, once it has ended. Blocks.

    Raises Invalid, Conflict.
    """
    start, skipped = _place(wanted.after)
    found: list[dict[str, Any]] = []
    following: str | None = None
    try:
        with (run_dir / LOG_FILE).open("rb") as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                for number, rejection in _rejections(line):
                    if number < skipped or (wanted.reason is not None and rejection["reason"] != wanted.reason):
                        continue
                    if len(found) == wanted.limit:
                        following = f"{start}.{number}"
                        break
                    found.append(rejection)
                if following is not None:
                    break
                start, skipped = file.tell(), 0
                if start - _place(wanted.after)[0] >= MOST_BYTES_READ:
                    following = f"{start}.0"
                    break
    except FileNotFoundError as error:
        raise Conflict("the job has made no attempts yet") from error
    report = read_json(run_dir / REPORT_FILE)
    by_reason = None if report is None else report["yield"]["rejected"]
    return {"by_reason": by_reason, "rejected": found, "next": following}


def _rejections(line: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Those of one attempt, numbered; none where the line is not the start of one (a cursor of another file)."""
    try:
        attempt = json.loads(line)
        return [
            (
                number,
                {
                    "attempt": attempt["attempt"],
                    "reason": one["reason"],
                    "why": why(one["reason"], one["detail"]),
                    "detail": one["detail"],
                },
            )
            for number, one in enumerate(attempt["rejected"])
        ]
    except (ValueError, TypeError, LookupError):
        return []


def _place(after: str | None) -> tuple[int, int]:
    if after is None:
        return 0, 0
    offset, dot, number = after.partition(".")
    if not (dot and offset.isdecimal() and number.isdecimal() and len(offset) <= _MOST_DIGITS >= len(number)):
        raise Invalid(f"after: {after[:50]!r} is not the `next` of a page")
    return int(offset), int(number)
