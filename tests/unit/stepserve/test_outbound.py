import pytest

from stepserve.address import normal_url
from stepserve.outbound import may_connect


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("judge.example", "93.184.215.14"),
        ("judge.corp.example", "10.1.2.3"),
        ("judge.corp.example", "fd00::1"),
        ("judge", "127.0.1.1"),
        ("localhost", "::1"),
        ("judge.localhost", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("169.254.7.7", "169.254.7.7"),
    ],
)
def test_where_a_host_that_settings_name_may_be(host: str, address: str) -> None:
    assert may_connect(host, address, named=True)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::"],
)
def test_a_name_that_begins_to_mean_this_machine_or_its_metadata(address: str) -> None:
    """DNS rebinding: whoever owns the name decides what it resolves to."""
    assert not may_connect("judge.example", address, named=True)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "fd00::1",
     "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "224.0.0.1", "0.0.0.0"],
)  # fmt: skip
def test_a_host_that_no_setting_names_must_be_public(address: str) -> None:
    assert not may_connect("cdn.example", address, named=False)
    assert not may_connect(address, address, named=False)
    assert may_connect("cdn.example", "93.184.215.14", named=False)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://Host/v1/", "http://host/v1"),
        ("https://host:443/v1", "https://host/v1"),
        ("http://[::1]:8000/V1", "http://[::1]:8000/V1"),
        ("http://host:80", "http://host"),
    ],
)
def test_spellings_of_one_url(url: str, normal: str) -> None:
    assert normal_url(url) == normal


@pytest.mark.parametrize(
    "url", ["host/v1", "ftp://host", "http://", "http://a@host", "http://host?x=1", "http://host:0", "http://host:x"]
)
def test_what_is_no_base_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normal_url(url)
