"""The files of a promotion, runs/promotion/<job_id>/, and its decision worked out of them again.

config.json       all that went in (PromotionConfig)
<set>/order.json  the order in which the questions of a set count
<set>/candidate.jsonl, <set>/baseline.jsonl, <set>/baseline_reused.jsonl
decision.json     written once, last and whole: the decision, and the digests of the files above
activation.json   how the switch ended that followed, if one did
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import stepserve
from control.promotion.pairs import Order, Pairs, answer_of
from control.promotion.request import PromotionConfig
from control.promotion.verdict import Records, look, report
from evals.record import SampleRecord
from evals.run_files import read_json, write_json
from evals.samples_log import read_records

CONFIG_FILE = "config.json"
ORDER_FILE = "order.json"
DECISION_FILE = "decision.json"
ACTIVATION_FILE = "activation.json"
CANDIDATE_FILE = "candidate.jsonl"
BASELINE_FILE = "baseline.jsonl"
REUSED_FILE = "baseline_reused.jsonl"


class BrokenRun(Exception):
    """The folder is not that of a promotion that has been decided, or a file of it cannot be read."""


def set_folder(run_dir: Path, number: int) -> Path:
    return run_dir / str(number)


def read_config(run_dir: Path) -> PromotionConfig:
    """Blocks. Raises BrokenRun."""
    try:
        stored = read_json(run_dir / CONFIG_FILE)
        if stored is None:
            raise BrokenRun(f"{run_dir} has no {CONFIG_FILE}: it is not the folder of a promotion")
        return PromotionConfig.model_validate(stored)
    except (OSError, ValueError) as error:
        raise BrokenRun(f"{run_dir / CONFIG_FILE}: {error}") from error


def read_order(folder: Path) -> Order | None:
    """None: there is none yet. Blocks."""
    stored = read_json(folder / ORDER_FILE)
    return None if stored is None else [[str(name) for name in unit] for unit in stored["units"]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run's files say. `records`: of each set the baseline's and the candidate's, by id, if they were wanted."""

    config: PromotionConfig
    sets: list[Pairs]
    records: list[tuple[Records, Records]]
    reused: int


def kept_in(run_dir: Path, *, texts: bool = True) -> Kept:
    """Without `texts` no record is held in memory, but what counts of each. Blocks. Raises BrokenRun."""
    config = read_config(run_dir)
    kept = Kept(config, [], [], 0)
    count = 0
    try:
        for number, stored in enumerate(config.sets):
            folder, metrics = set_folder(run_dir, number), stored.config.metrics
            pairs = Pairs(read_order(folder) or [])
            old, new = Records(), Records()
            for name, answers, records in (
                (REUSED_FILE, pairs.baseline, old),
                (BASELINE_FILE, pairs.baseline, old),
                (CANDIDATE_FILE, pairs.candidate, new),
            ):
                for record in _records(folder / name):
                    answers[record.id] = answer_of(record, metrics, timed=name != REUSED_FILE)
                    count += name == REUSED_FILE
                    if texts:
                        records[record.id] = record
            kept.sets.append(pairs)
            kept.records.append((old, new))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenRun(f"{run_dir}: {error}") from error
    return replace(kept, reused=count)


def decision_of(run_dir: Path) -> dict[str, Any]:
    """What the files say, whatever decision.json says. Blocks. Raises BrokenRun."""
    kept = kept_in(run_dir)
    config, sets, records = kept.config, kept.sets, kept.records
    try:
        decided = report(config, sets, records, look(config, sets))
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenRun(f"{run_dir}: {error}") from error
    return {
        **decided,
        "candidate": config.candidate.model_dump(),
        "baseline": config.baseline.model_dump(),
        "baseline_run": config.baseline_run,
        "rule": config.rule.model_dump(mode="json"),
        "sequential": config.sequential,
        "answers": {
            "candidate": sum(len(new) for _, new in records),
            "baseline": sum(len(old) for old, _ in records),
            "baseline_reused": kept.reused,
        },
    }


def write_decision(run_dir: Path) -> dict[str, Any]:
    """Decides from the files and writes decision.json. Blocks. Raises BrokenRun, OSError."""
    decided = decision_of(run_dir)
    decided |= {"inputs": digests(run_dir), "version": stepserve.__version__}
    write_json(run_dir / DECISION_FILE, decided)
    return decided


def digests(run_dir: Path) -> dict[str, str]:
    """`sha256:<hex>` of every file that went into the decision, by its path in the run's folder. Blocks."""
    paths = [run_dir / CONFIG_FILE, *sorted(run_dir.glob(f"*/{ORDER_FILE}")), *sorted(run_dir.glob("*/*.jsonl"))]
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[str(path.relative_to(run_dir))] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return found


def replay(run_dir: Path) -> tuple[dict[str, Any], list[str]]:
    """The decision worked out again, and in which ways it or the files differ from decision.json. Blocks.

    Raises BrokenRun.
    """
    try:
        kept = read_json(run_dir / DECISION_FILE)
    except (OSError, ValueError) as error:
        raise BrokenRun(f"{run_dir / DECISION_FILE}: {error}") from error
    if kept is None:
        raise BrokenRun(f"{run_dir} has no {DECISION_FILE}: the promotion has not been decided")
    again = decision_of(run_dir)
    differs = [
        f"{name} is not what the decision was made of"
        for name, digest in digests(run_dir).items()
        if kept.get("inputs", {}).get(name) != digest
    ]
    differs += [f"{name} is gone" for name in kept.get("inputs", {}) if not (run_dir / name).exists()]
    plain = json.loads(json.dumps(again))
    differs += [f"`{key}` comes out otherwise" for key in plain if plain[key] != kept.get(key)]
    return again, differs


def _records(path: Path) -> Iterator[SampleRecord]:
    """None of a file that is not there."""
    with suppress(FileNotFoundError):
        yield from read_records(path)
