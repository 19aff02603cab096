"""What is offered beyond answering in turn: part of a revision, kept until it is changed, told to replicas by name of token."""

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.serving.offer import CacheRule, LaneRule, OfferUnclear
from skyloom.rooms.serving.outlook import newest_revision
from skyloom.rooms.serving.plan import ServePlan
from skyloom.rooms.serving.replicas import plan_of
from skyloom.rooms.tenancy.model import CreateToken, RevokeToken, Role
from tests.rooms.serving.bench import ME, Bench

SIZE = Resources(cpus=0.5, memory_bytes=512 * 2**20)


@pytest.fixture
def bench():
    return Bench()


def plan(bench) -> ServePlan:
    endpoint = bench.status().endpoint
    revision = bench.disk.read(lambda view: newest_revision(view, endpoint))
    return msgspec.json.decode(plan_of(endpoint, revision, "rep_1", bench.files), type=ServePlan)


def test_offer_is_part_of_a_revision_and_stays_until_it_is_changed(bench):
    cache, lanes = CacheRule(size_bytes=2**20, ttl_s=5.0), LaneRule(urgent=("fast",))
    assert bench.deploy(resources=SIZE).endpoint.revision == 1
    assert (plan(bench).cache, plan(bench).lanes, plan(bench).urgent_file) == (None, None, "")
    assert bench.deploy(cache=cache, lanes=lanes).endpoint.revision == 2
    assert bench.deploy(cache=cache).endpoint.revision == 2, "the same is no news"
    told = plan(bench)
    assert (told.cache, told.lanes) == (cache, lanes) and told.urgent_file
    off = CacheRule(size_bytes=0)
    assert bench.deploy(cache=off).endpoint.revision == 3
    assert (plan(bench).cache, plan(bench).lanes) == (off, lanes)


def test_cache_that_memory_does_not_hold_is_refused(bench):
    with pytest.raises(OfferUnclear, match="more than half"):
        bench.deploy(resources=SIZE, cache=CacheRule(size_bytes=300 * 2**20))
    for bad in ({"size_bytes": -1}, {"ttl_s": 0}, {"share": 0.5}, {"urgent": ["x" * 10_000]}):
        kind = LaneRule if bad.keys() & {"share", "urgent"} else CacheRule
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, kind)


def test_tokens_that_may_go_first_are_published_by_name_and_taken_away(bench):
    def issue(name):
        ask = CreateToken(name=name, role=Role.PREDICTOR)
        return bench.store.write(lambda tx: bench.tenancy.create_token(tx, ask, ME))

    fast, _slow = issue("fast").token, issue("slow")
    endpoint = bench.deploy(lanes=LaneRule(urgent=("fast", "nobody"))).endpoint
    bench.settle(2)
    assert bench.files.urgent[endpoint.id] == (fast.digest,)
    bench.store.write(lambda tx: bench.tenancy.revoke_token(tx, RevokeToken(token_id=fast.id), ME))
    bench.settle(1)
    assert bench.files.urgent[endpoint.id] == ()
    bench.deploy(lanes=LaneRule(urgent=("*",)))
    bench.settle(1)
    assert set(bench.files.urgent[endpoint.id]) == set(bench.files.access["default"])
