"""What a checkpoint's content is, as one string: `sha256:<hex>`; a pure function of the hashes of its parts.

The weights count by name, type, shape and bytes, however they are cut into files; config, tokenizer and chat template
count byte by byte. Two folders with one digest answer alike. Server and client compute it by the same function, so
that a client knows what has arrived.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Everything beside the weights that changes what the engine answers.
CONTENT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "quantize_config.json", "hf_quant_config.json",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
# Templates by name, and what a sentence-transformers model says of how its vectors are made.
_IN_FOLDERS = re.compile(r"chat_templates/[A-Za-z0-9_][A-Za-z0-9._-]*\.jinja|[0-9]{1,2}_[A-Za-z]{1,40}/config\.json")


def is_content(name: str) -> bool:
    """Whether a file of a checkpoint, other than its weights, changes what the engine answers."""
    return name in CONTENT_FILES or _IN_FOLDERS.fullmatch(name) is not None


def content_in_folders(folder: Path) -> list[str]:
    """Names of the content files below the checkpoint's own folders, in order. Blocks."""
    names = (file.relative_to(folder).as_posix() for file in folder.glob("*/*") if file.is_file())
    return sorted(name for name in names if is_content(name))


def content_digest(tensors: Iterable[tuple[str, str, Sequence[int], str]], files: Mapping[str, str]) -> str:
    """Of tensors as (name, type, shape, sha256 of its bytes) and of content files' sha256 by name."""
    rows = sorted(([name, dtype, list(shape), sha] for name, dtype, shape, sha in tensors), key=lambda row: str(row[0]))
    summary = {"tensors": rows, "files": [[name, sha] for name, sha in sorted(files.items())]}
    text = json.dumps(summary, separators=(",", ":"), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def templated_digest(digest: str, template: str | None) -> str:
    """The digest of what answers: the same files answer otherwise with another chat template than their own."""
    if template is None:
        return digest
    return f"sha256:{hashlib.sha256(f'{digest} chat_template={text_sha(template)}'.encode()).hexdigest()}"


def text_sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
