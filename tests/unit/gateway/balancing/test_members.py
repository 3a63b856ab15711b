import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from gateway.balancing.asked import PREFIX_BYTES, Asked, asked_of, prefix_of
from gateway.balancing.member import Member
from gateway.balancing.members import Members, Serving
from gateway.balancing.metrics import OTHER, MemberLabels
from gateway.errors import InvalidField
from gateway.request.body import RequestBody
from gateway.request.estimate import estimate_of
from gateway.serving.weights.versions import Demand
from gateway.upstream.errors import UpstreamUnavailable
from stepserve.contract import ACTIVE_ALIAS
from stepserve.fleet import LOCAL_MEMBER, FleetView
from tests.unit.gateway.balancing.views import DIGEST, MODEL, member, view

HERE = Serving(MODEL, DIGEST, 0)
STATES = ["joining", "ready", "switching", "draining", "cordoned", "lost"]


def members_of(seen: FleetView, here: Serving | None = HERE, now_s: list[float] | None = None) -> Members:
    members = Members(lambda: here, clock=lambda: now_s[0] if now_s else 0.0)
    members.put(seen)
    return members


def asked(**said: Any) -> Asked:
    return Asked(**{"model": MODEL, "tokens": 10, **said})


def chosen(members: Members, wanted: Asked, tried: tuple[Member, ...] = ()) -> str | None:
    found = members.choose(wanted, tried)
    return found.entry.id if found else None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from([MODEL, "other"]), st.integers(0, 3)), max_size=8),
    st.sampled_from([None, Demand(2, False), Demand(1, True)]),
    st.one_of(st.none(), st.integers(0, 9)),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_only_a_ready_member_that_serves_it_is_asked(
    said: list[tuple[str, str, int]], demand: Demand | None, session: int | None, prefix: int | None
) -> None:
    entries = [
        member(f"g{number}", state=state, model=model, version=version)
        for number, (state, model, version) in enumerate(said)
    ]
    members = members_of(view(*entries))
    able = {
        each.id
        for each in entries
        if each.state == "ready" and each.model == MODEL and (demand is None or demand.is_met(each.version))
    }
    found = chosen(members, asked(demand=demand, session=session, prefix=prefix))
    assert found in able if able else found is None


def test_without_others_nothing_is_balanced() -> None:
    members = members_of(view(member(LOCAL_MEMBER)))
    assert not members.balances
    for state in STATES:
        members.put(view(member(LOCAL_MEMBER), member("a", state=state)))
        assert members.balances == (state in {"ready", "switching"})
    members.put(view(member(LOCAL_MEMBER), member("a")).model_copy(update={"committed": None}))
    assert not members.balances


def test_which_names_the_fleet_answers_to() -> None:
    members = members_of(view(member("a")))
    assert [members.committed_model(name) for name in (None, "", ACTIVE_ALIAS, MODEL)] == [MODEL] * 4
    assert members.committed_model("other") is None


@pytest.mark.parametrize(
    ("here", "able"),
    [(HERE, True), (None, False), (Serving(MODEL, "sha256:1", 0), False), (Serving(MODEL, "sha256:pushed", 1), False)],
)
def test_this_gateway_is_asked_for_what_control_says_it_serves(here: Serving | None, able: bool) -> None:
    members = members_of(view(member(LOCAL_MEMBER)), here)
    assert chosen(members, asked()) == (LOCAL_MEMBER if able else None)


def test_weights_pushed_here_are_asked_for_once_control_says_that_they_are_the_fleets() -> None:
    members = members_of(view(member(LOCAL_MEMBER), member("a")), Serving(MODEL, "sha256:pushed", 3))
    assert [chosen(members, asked(demand=Demand(3, exact))) for exact in (True, False)] == [None] * 2
    assert chosen(members, asked(demand=Demand(0, True))) == "a"
    members.put(view(member(LOCAL_MEMBER, version=3, digest="sha256:pushed"), member("a")))
    assert [chosen(members, asked(demand=Demand(3, exact))) for exact in (True, False)] == [LOCAL_MEMBER] * 2
    assert members.newest(MODEL) == 3


def test_what_is_kept_in_one_engine_stays_there() -> None:
    members = members_of(view(member(LOCAL_MEMBER), member("a")))
    members.all[LOCAL_MEMBER].outstanding_tokens = 1000
    assert chosen(members, asked()) == "a"
    assert chosen(members, asked(only_here=True)) == LOCAL_MEMBER


def test_a_member_that_left_is_forgotten_and_one_that_stayed_keeps_what_it_has() -> None:
    members = members_of(view(member("a"), member("b")))
    members.all["b"].outstanding_tokens = 7
    gone = members.all["a"]
    members.put(view(member("b")))
    assert (list(members.all), gone.left) == (["b"], True)
    assert members.all["b"].outstanding_tokens == 7
    members.put(view(member("b", url="http://elsewhere.test:1")))
    assert members.all["b"].outstanding_tokens == 0, "another server under the same name"


def test_views_that_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    members = members_of(view(member("a"), member("a", url="http://twin.test"), member("b", url="no url"), member("c")))
    assert list(members.all) == ["a", "c"]
    assert members.all["a"].entry.url == "http://a.test:8765"
    assert "two members a" in caplog.text
    assert "b is left out" in caplog.text


def test_a_doubted_member_is_left_alone_until_control_says_something_else_or_a_second_is_over() -> None:
    now_s = [0.0]
    members = members_of(view(member("a")), now_s=now_s)
    members.all["a"].doubt(0.0)
    members.put(view(member("a", heartbeat_age_s=0.9, in_flight=3)))
    assert chosen(members, asked()) is None
    now_s[0] = 1.1
    assert chosen(members, asked()) == "a"
    members.all["a"].doubt(1.1)
    members.put(view(member("a", version=1)))
    assert chosen(members, asked()) == "a"


def test_members_that_keep_failing() -> None:
    members = members_of(view(member("a"), member("b")))
    a, b = members.all.values()
    for _ in range(3):
        a.breaker.fail(0.0)
    assert [chosen(members, asked()) for _ in range(3)] == ["b"] * 3
    assert chosen(members, asked(), (b,)) is None
    for _ in range(3):
        b.breaker.fail(0.0)
    with pytest.raises(UpstreamUnavailable, match="a, b") as refused:
        members.choose(asked(), ())
    assert refused.value.retry_after_s == 2.0


def test_one_failure_moves_the_request_and_not_its_session() -> None:
    members = members_of(view(*(member(name) for name in "abcd")))
    wanted = asked(session=5)
    home = members.choose(wanted, ())
    assert home is not None
    assert members.choose(wanted, (home,)) not in {None, home}
    assert members.choose(wanted, ()) is home


def test_versions_that_are_gone_and_that_may_come() -> None:
    members = members_of(view(member("a", version=2), member("b", version=3), member("c", version=1, state="lost")))
    assert members.is_past(asked(demand=Demand(1, True)))
    assert not members.is_past(asked(demand=Demand(2, True)))
    assert not members.is_past(asked(demand=Demand(9, False)))
    assert members.newest(MODEL) == 3


LONG = "x" * PREFIX_BYTES


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"prompt": LONG}, {"prompt": LONG + " and more"}, True),
        ({"prompt": LONG}, {"prompt": "y" + LONG}, False),
        ({"messages": [{"content": LONG}]}, {"messages": [{"content": LONG}, {"content": "?"}]}, True),
        ({"messages": [{"content": LONG}]}, {"messages": [{"content": "y" + LONG}]}, False),
    ],
)
def test_prompts_that_begin_alike_have_one_key(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    keys = [prefix_of(RequestBody(json.dumps(each).encode())) for each in (one, other)]
    assert None not in keys
    assert (keys[0] == keys[1]) == same


@pytest.mark.parametrize("body", [{"prompt": "short"}, {"input": LONG}, {}])
def test_what_has_no_long_prompt_has_no_key(body: dict[str, Any]) -> None:
    assert prefix_of(RequestBody(json.dumps(body).encode())) is None


def test_what_a_request_says_of_where_it_goes() -> None:
    body = RequestBody(b'{"prompt": "' + b"p" * 2000 + b'", "max_tokens": 5}')
    estimate = estimate_of(body)
    scope = {"path": "/v1/completions", "headers": [(b"x-session-id", b"s")]}
    one = asked_of(scope, body, estimate, MODEL, None)
    assert (one.tokens, one.prefix, one.only_here) == (estimate.tokens, None, False)
    assert one.session is not None
    assert asked_of({**scope, "headers": []}, body, estimate, MODEL, None).prefix is not None
    assert asked_of({**scope, "path": "/v1/responses"}, body, estimate, MODEL, None).only_here
    with pytest.raises(InvalidField, match="x-session-id: 300 characters"):
        asked_of({**scope, "headers": [(b"x-session-id", b"s" * 300)]}, body, estimate, MODEL, None)


def test_labels_are_bounded_and_given_back() -> None:
    registry = CollectorRegistry()
    counter = Counter("t", "t", ["member"], registry=registry)
    labels = MemberLabels((counter,), most=2)
    given = [labels.take(name) for name in ("a", "b", "c", "a")]
    assert given == ["a", "b", OTHER, "a"]
    for name in given:
        counter.labels(name).inc()
    labels.release("a")
    assert registry.get_sample_value("t_total", {"member": "a"}) is None
    assert labels.take("c") == "c"
