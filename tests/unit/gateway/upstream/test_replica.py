import httpx
import pytest

from gateway.upstream.errors import UpstreamFailed
from gateway.upstream.replica import Replica, choose
from gateway.upstream.wire import translated
from stepserve.hosts import Tier, Upstream

TIER = Tier.model_validate({"upstreams": ["http://a/v1", "http://b/v1"]})


def replicas(*models: str) -> list[Replica]:
    return [Replica.of("t", TIER, Upstream(base_url=each.base_url, models=list(models))) for each in TIER.upstreams]


def test_the_least_busy_then_the_one_that_waited_longest() -> None:
    one, other = replicas()
    with one.busy():
        assert choose([one, other], [], 0.0) is other
    assert choose([one, other], [], 0.0) is other  # the first had its turn
    with other.busy():
        pass
    assert choose([one, other], [], 0.0) is one


def test_none_twice_and_none_that_is_left_alone() -> None:
    one, other = replicas()
    assert choose([one, other], [one], 0.0) is other
    assert choose([one, other], [one, other], 0.0) is None
    for _ in range(3):
        one.breaker.fail(0.0)
    assert choose([one, other], [other], 0.0) is None


def test_what_a_replica_is_asked_for() -> None:
    assert replicas("x", "y")[0].default_model() == "x"
    assert replicas("x", "active")[0].default_model() == "active"
    unknown = replicas()[0]
    assert unknown.default_model() is None
    assert unknown.serves("anything")
    assert not replicas("x")[0].serves("y")


@pytest.mark.parametrize("host", ["10.0.0.5", "gpu"])
def test_a_certificate_of_another_host_is_told_without_the_host(host: str) -> None:
    upstream = Upstream(base_url=f"https://{host}:8443/v1")
    replica = Replica.of("t", Tier(upstreams=[upstream]), upstream)
    said = f"certificate verify failed: of gpus, the certificate is not valid for '{host}'."
    with pytest.raises(UpstreamFailed) as failed, translated(replica):
        raise httpx.ConnectError(said)
    expected = f"Upstream 1 of `t` cannot be reached: {said}".replace(f"'{host}'", "'Upstream 1 of `t`'")
    assert str(failed.value) == expected
