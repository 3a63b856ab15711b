"""What a checkpoint's content is, as one string: `sha256:<hex>`.

The weights count by name, type, shape and bytes, however they are cut into files; config, tokenizer and chat
template count byte by byte. Two folders with one digest answer alike.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from control.digest_cache import DigestCache, stamp
from control.errors import Invalid
from control.shard import Tensor

_CHUNK_BYTES = 4 * 1024 * 1024

# Everything beside the weights that changes what the engine answers.
CONTENT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "quantize_config.json", "hf_quant_config.json",
)  # fmt: skip


def digest(folder: Path, shards: Mapping[Path, list[Tensor]], cache: DigestCache) -> str:
    """Digest of the folder whose weights are `shards`. Blocks; reads what `cache` does not know, in pieces.

    Raises Invalid when a file changes while it is read or cannot be read.
    """
    tensors: list[list[object]] = []
    for file, members in shards.items():
        hashes = _hashes(file, [(tensor.name, tensor.begin, tensor.end) for tensor in members], cache)
        tensors += [[tensor.name, tensor.dtype, list(tensor.shape), hashes[tensor.name]] for tensor in members]
    contents = [[name, sha] for name, sha in sorted(file_shas(folder, cache).items())]
    summary = {"tensors": sorted(tensors, key=lambda row: str(row[0])), "files": contents}
    text = json.dumps(summary, separators=(",", ":"), sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def file_shas(folder: Path, cache: DigestCache) -> dict[str, str]:
    """sha256 of every content file that is there, by its name in the folder. Blocks and raises as `digest`."""
    names = [name for name in CONTENT_FILES if (folder / name).is_file()]
    names += sorted(f"chat_templates/{file.name}" for file in folder.glob("chat_templates/*.jinja"))
    return {name: _hashes(folder / name, None, cache)[""] for name in names}


def _hashes(file: Path, spans: list[tuple[str, int, int]] | None, cache: DigestCache) -> dict[str, str]:
    """sha256 of each span `(name, begin, end)`; without spans, of the whole file under the name ''."""
    try:
        before = stamp(file)
        known = cache.get(file, before)
        if known is not None:
            return known
        with file.open("rb") as stream:
            hashes = {}
            for name, begin, end in spans if spans is not None else [("", 0, before.size_bytes)]:
                stream.seek(begin)
                state = hashlib.sha256()
                left = end - begin
                while left:
                    piece = stream.read(min(left, _CHUNK_BYTES))
                    if not piece:
                        raise Invalid(f"{file.name} became shorter while it was read")
                    state.update(piece)
                    left -= len(piece)
                hashes[name] = state.hexdigest()
        after = stamp(file)
    except OSError as error:
        raise Invalid(f"{file.name} cannot be read: {error.strerror}") from error
    if after != before:
        raise Invalid(f"{file.name} changed while it was read: register again when the copy is complete")
    cache.put(file, before, hashes)
    return hashes
