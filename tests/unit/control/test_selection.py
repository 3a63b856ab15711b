import pytest

from control.errors import Invalid
from control.pull.selection import RemoteFile, select


def files(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name=name, size_bytes=len(names) - n) for n, name in enumerate(names)]


def test_of_a_repository_only_the_checkpoint_is_taken_small_files_first() -> None:
    listed = files(
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
        "consolidated.safetensors", "original/model.safetensors", "onnx/model.onnx", "pytorch_model.bin", "tf_model.h5",
        "modeling.py", "config.json", "tokenizer.json", "chat_templates/tools.jinja", "README.md", "model.gguf",
        "training_args.bin", ".gitattributes", "chat_templates/../../../outside.jinja", "../config.json", "/etc/passwd",
    )  # fmt: skip
    assert [file.name for file in select("a/b", listed)] == [
        "README.md", "chat_templates/tools.jinja", "tokenizer.json", "config.json", "model.safetensors.index.json",
        "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors",
    ]  # fmt: skip


def test_of_sentence_transformers_what_says_how_vectors_are_made() -> None:
    listed = files("model.safetensors", "config.json", "modules.json", "1_Pooling/config.json", "2_Normalize/x.bin")
    assert {file.name for file in select("a/b", listed)} == {
        "model.safetensors", "config.json", "modules.json", "1_Pooling/config.json",
    }  # fmt: skip


def test_an_adapter() -> None:
    listed = files("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "optimizer.pt")
    assert {file.name for file in select("a/b", listed)} == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["config.json", "pytorch_model.bin"], "pytorch_model.bin is a pickle"),
        (["config.json", "model.safetensors.index.json"], "no safetensors"),
        (["model.Q4_K_M.gguf"], "model.Q4_K_M.gguf is GGUF"),
        (["README.md"], "no config.json"),
        (["config.json", "model.safetensors", "2_Dense/model.safetensors"], "has the module 2_Dense"),
        (["adapter_config.json", "adapter_model.bin"], "adapter_model.bin is a pickle"),
    ],
)
def test_what_is_no_checkpoint(names: list[str], named: str) -> None:
    with pytest.raises(Invalid, match="a/b") as refused:
        select("a/b", files(*names))
    assert named in str(refused.value)


def test_a_small_file_that_is_huge_is_refused_before_it_is_fetched() -> None:
    listed = files("config.json", "tokenizer.json", "model.safetensors")
    endless = [file.model_copy(update={"size_bytes": 10**12}) if "tok" in file.name else file for file in listed]
    with pytest.raises(Invalid, match=r"a/b: tokenizer\.json has 1000000000000 bytes; at most \d+ are taken"):
        select("a/b", endless)
