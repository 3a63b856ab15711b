"""What a finished run says of itself: manifest.json for programs, README.md (a dataset card) for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datagen.config import GenerationConfig
from datagen.shards import ShardFacts
from evals.run_files import write_json
from stepserve.durable import write_whole

_CARD = """---
configs:
- config_name: default
  data_files:
{files}
tags:
- synthetic
---

# {rows} examples made by {job_id}

{rows} training examples in {shards} shard(s), made by the strategy `{strategy}` with the model `{model}`
(`{digest}`), seed {seed}.{partial}

| | |
|---|---|
| format | `{format}` |
| domain | {domain} |
| attempts | {attempts} |
| accepted | {rows} |
| rejected | {rejected} |
| verified by | {verified} |
| decontaminated against | {datasets} |
| tokens an example | {tokens} |

Each row has `metadata`: where the example comes from (`source_id`), how it was sampled (`seed`, `sampling`,
`prompt_sha`), how it was verified (`verify_method`, `verify_score`, `answer`), and how near the nearest known question
is (`max_similarity`).

## Files

| file | rows | sha256 |
|---|---|---|
{table}

## Settings

```json
{settings}
```
"""


def write_manifest(
    run_dir: Path, about: dict[str, str], config: GenerationConfig, shards: Sequence[ShardFacts], result: dict[str, Any]
) -> None:
    """Blocks; raises OSError."""
    write_json(
        run_dir / "manifest.json",
        {
            **about,
            "format": config.format,
            "rows": sum(shard.rows for shard in shards),
            "shards": [shard.shown() for shard in shards],
            "config": config.model_dump(mode="json"),
            "result": result,
        },
    )


def write_card(
    run_dir: Path, about: dict[str, str], config: GenerationConfig, shards: Sequence[ShardFacts], result: dict[str, Any]
) -> None:
    """Blocks; raises OSError."""
    guard = result["decontamination"]
    rejected = ", ".join(f"{reason} {count}" for reason, count in result["rejected"].items())
    text = _CARD.format(
        **about,
        files="\n".join(f"  - split: train\n    path: {shard.name}" for shard in shards),
        rows=result["accepted"],
        shards=len(shards),
        digest=result["model_digest"],
        seed=config.seed,
        partial=f" {config.num_examples} were asked for." if result["partial"] else "",
        format=config.format,
        domain=config.domain or "any",
        attempts=result["attempts"],
        rejected=rejected or "none",
        verified=", ".join(f"{method} {count}" for method, count in result["verified_by"].items()),
        datasets=", ".join(guard["datasets"]) or "no dataset" if guard["on"] else "nothing: it was switched off",
        tokens=f"{result['tokens_per_accepted_example']:.0f}",
        table="\n".join(f"| {shard.name} | {shard.rows} | `{shard.sha256}` |" for shard in shards),
        settings=json.dumps(config.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False, indent=2),
    )
    write_whole(run_dir / "README.md", text)
