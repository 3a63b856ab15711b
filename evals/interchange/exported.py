"""A run of ours as a file of another harness."""

import json
from datetime import datetime

from evals.interchange import inspect_log, lm_eval_log
from evals.rescore import records_of
from stepserve.jobs.eval_ports import DoneEval, ExportFormat


def exported(done: DoneEval, form: ExportFormat, finished_at: datetime) -> tuple[bytes, str]:
    """The file and the name that it should have. Blocks. Raises Conflict when the run kept no samples."""
    records = sorted(records_of(done), key=lambda record: record.index)
    stamp = finished_at.strftime("%Y-%m-%dT%H-%M-%S")
    name = lm_eval_log.task_of(done)
    task = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name)
    if form == "inspect":
        log = inspect_log.written(done, records, finished_at.isoformat())
        return json.dumps(log).encode(), f"{stamp}_{task}_{done.job_id}.json"
    if form == "lm_eval":
        results = lm_eval_log.results(done, len(records), finished_at.timestamp())
        return json.dumps(results).encode(), f"results_{stamp}.json"
    lines = (json.dumps(line) for line in lm_eval_log.samples(records))
    return "".join(f"{line}\n" for line in lines).encode(), f"samples_{task}_{stamp}.jsonl"
