"""The files of a run of another harness, as a run of ours has them."""

from pathlib import Path
from typing import Any

from evals.interchange.imported import ImportedRun
from evals.run_files import CONFIG_FILE, METRICS_FILE, write_json
from evals.samples_log import SAMPLES_FILE, open_samples


def write_run(run_dir: Path, run: ImportedRun, config: dict[str, Any]) -> None:
    """`metrics.json` last: a run that has it is over. What an earlier attempt left behind is replaced.

    Blocks. Raises OSError, and ValueError for what cannot be written, such as half of a surrogate pair.
    """
    (run_dir / SAMPLES_FILE).unlink(missing_ok=True)
    with open_samples(run_dir / SAMPLES_FILE) as log:
        log.append(run.records)
        log.sync()
    write_json(run_dir / CONFIG_FILE, {"job_id": run_dir.name, "type": "eval", **config})
    write_json(run_dir / METRICS_FILE, run.result)
