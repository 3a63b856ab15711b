"""What a checkpoint's content is, as one string: `sha256:<hex>`; a pure function of the hashes of its parts.

The weights count by name, type, shape and bytes, however they are cut into files; config, tokenizer and chat template
count byte by byte. Two folders with one digest answer alike. Server and client compute it by the same function, so
that a client knows what has arrived.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

# Everything beside the weights that changes what the engine answers.
CONTENT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "quantize_config.json", "hf_quant_config.json",
)  # fmt: skip


def content_digest(tensors: Iterable[tuple[str, str, Sequence[int], str]], files: Mapping[str, str]) -> str:
    """Of tensors as (name, type, shape, sha256 of its bytes) and of content files' sha256 by name."""
    rows = sorted(([name, dtype, list(shape), sha] for name, dtype, shape, sha in tensors), key=lambda row: str(row[0]))
    summary = {"tensors": rows, "files": [[name, sha] for name, sha in sorted(files.items())]}
    text = json.dumps(summary, separators=(",", ":"), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
