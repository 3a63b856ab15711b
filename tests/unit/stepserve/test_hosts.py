"""hosts.json: understood, or refused with the line."""

from pathlib import Path

import pytest

from stepserve.hosts import HostsRefused, find, load

EXAMPLE = Path(__file__).resolve().parents[3] / "config" / "hosts.json.example"


def test_the_example_is_understood() -> None:
    hosts = load(EXAMPLE, {})
    assert (hosts.inference.host, hosts.trainer.base_dir) == ("192.0.2.2", "/home/llm/training")
    assert [each.base_url for each in hosts.tiers["fast"].upstreams] == [
        "http://192.0.2.4:8765/v1",
        "http://192.0.2.5:8765/v1",
    ]
    reasoning = hosts.tiers["reasoning"]
    assert reasoning.first_byte_timeout_s == 600
    assert reasoning.upstreams[0].key({"REASONING_API_KEY": "k"}) == "k"
    with pytest.raises(HostsRefused, match="REASONING_API_KEY"):
        reasoning.upstreams[0].key({})


def test_variables_override_the_file() -> None:
    hosts = load(EXAMPLE, {"INFERENCE_HOST": "h", "INFERENCE_SSH_USER": "me", "TRAINING_BASE_DIR": "/t"})
    assert (hosts.inference.host, hosts.inference.ssh_user, hosts.inference.port) == ("h", "me", 8765)
    assert hosts.trainer.base_dir == "/t"
    assert load(None, {"INFERENCE_PORT": "1"}).inference.port == 1


def test_no_file_is_no_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(None, tmp_path / "base") is None
    assert load(None, {}).tiers == {}
    with pytest.raises(HostsRefused, match="nowhere"):
        find(Path("nowhere.json"), tmp_path)
    (tmp_path / "base" / "config").mkdir(parents=True)
    (tmp_path / "base" / "config" / "hosts.json").write_text("{}")
    assert find(None, tmp_path / "base") == tmp_path / "base" / "config" / "hosts.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "infrence": {}\n}', "line 2: infrence: there is no such key"),
        ('{"tiers": {\n"fast": {"upstreams": ["http://a/v1"],\n"retry": 1}}}', "line 3: tiers.fast.retry: there is no"),
        (
            '{"tiers": {\n"fast": {"upstreams": ["http://a/v1"]},\n"fast": {"upstreams": ["http://b/v1"]}}}',
            "line 3: tiers.fast is there twice (also on line 2)",
        ),
        ('{"tiers": {"a": {"upstreams": ["http://a"]},\n"A": {"upstreams": ["http://a"]}}}', "two tiers are called"),
        ('{"tiers": {"fast": {"upstreams": [\n"http://a/v1",\n"192.0.2.2:8765"]}}}', "line 3: tiers.fast.upstreams.1"),
        ('{"tiers": {"fast": {"upstreams": [\n"http://a:99999/v1"]}}}', "line 2: tiers.fast.upstreams.0.base_url"),
        ('{"tiers": {"fast": {"upstreams": ["ftp://a"]}}}', "is not a URL such as"),
        ('{"tiers": {"fast": {"upstreams": ["http://u:p@a/v1"]}}}', "no user, password"),
        ('{"tiers": {"fast": {"upstreams": ["http://a/v1", "http://a/v1/"]}}}', "listed twice"),
        ('{"tiers": {"fast": {"upstreams": []}}}', "tiers.fast.upstreams: List should have at least 1 item"),
        ('{"tiers": {"fast": {}}}', "tiers.fast.upstreams is missing"),
        ('{"tiers": {"v1": {"upstreams": ["http://a/v1"]}}}', "cannot be a tier's name"),
        ('{"tiers": {"a/b": {"upstreams": ["http://a/v1"]}}}', "tiers.a/b: String should match pattern"),
        ('{"tiers": {"a": {"upstreams": [{"base_url": "http://a", "api_key": "k", "api_key_env": "K"}]}}}', "exclude"),
        ('{\n"inference": {"port": "many"}}', "line 2: inference.port: Input should be a valid integer"),
        ('{\n"inference": {"host" "x"}}', "line 2: ':' belongs here"),
        ('{\n"inference": {host: "x"}}', "line 2: a key in double quotes belongs here"),
        ('{"inference": {},}', "line 1: a key in double quotes"),
        ("[]", "line 1: an object"),
        ("{} {}", "line 1: something follows the end"),
        ('{"inference": {"host": "x', "line 1: Unterminated string"),
        ("", "line 1: Expecting value"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(text)
    with pytest.raises(HostsRefused) as refused:
        load(path, {})
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_refusal_never_repeats_a_key(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text('{"tiers": {"a": {"upstreams": [{"base_url": "nonsense", "api_key": "hunter2"}]}}}')
    with pytest.raises(HostsRefused) as refused:
        load(path, {})
    assert "hunter2" not in str(refused.value)
