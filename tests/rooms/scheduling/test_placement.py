"""Where gangs go."""

import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.model import Demand, Node, Placement
from skyloom.rooms.scheduling.placement import Floor, Ground, Shape
from tests.rooms.scheduling.scenes import gang, node


def placed(nodes: list[Node], demand: Demand, held: dict[str, int] | None = None) -> Placement | None:
    """Where it goes when so many GPUs are in use already."""
    floor = Floor(Ground(nodes))
    for name, count in (held or {}).items():
        floor.take(((name, count),), (1, 0, 0))
    return floor.find(Shape(demand, renting=False), demand.min_workers)


TWO_POOLS = [node("a", pool="x"), node("b", pool="y", usd_per_hour=8.0), node("c", pool="y", usd_per_hour=8.0)]


@pytest.mark.parametrize(
    ("nodes", "demand", "held", "expected"),
    [
        pytest.param([node("a"), node("b")], gang("1", 2), {"b": 5}, (("b", 1),), id="tightest-fit"),
        pytest.param([node("a"), node("b")], gang("1", 1), {"b": 7}, (("b", 1),), id="whole-nodes-stay-whole"),
        pytest.param([node("a"), node("b")], gang("1", 0), {"b": 8}, (("b", 1),), id="no-gpu-goes-where-none-is-free"),
        pytest.param([node("a"), node("b")], gang("1", 1, 8), {"a": 1}, (("b", 8),), id="one-host-if-any"),
        pytest.param(
            [node("a"), node("b"), node("c")],
            gang("1", 1, 11),
            {"b": 4},
            (("a", 8), ("b", 3)),
            id="fewest-hosts-tight-rest",
        ),
        pytest.param([node("a"), node("b")], gang("1", 8, 2), {"b": 1}, None, id="all-or-nothing"),
        pytest.param(TWO_POOLS, gang("1", 8, 2), {}, (("b", 1), ("c", 1)), id="never-across-pools"),
        pytest.param(TWO_POOLS, gang("1", 8, 3), {}, None, id="no-pool-alone-is-enough"),
        pytest.param(TWO_POOLS, gang("1"), {}, (("a", 1),), id="cheaper-pool-first"),
        pytest.param(TWO_POOLS, gang("1", pools=("y",)), {}, (("b", 1),), id="allowed-pools-only"),
        pytest.param(
            [node("a"), node("b", labels={"zone": "eu"})],
            gang("1", labels={"zone": "eu"}),
            {},
            (("b", 1),),
            id="labels",
        ),
        pytest.param([node("a"), node("b", rented=True)], gang("1", 8), {"a": 1}, None, id="rented-is-not-for-all"),
        pytest.param(
            [node("a"), node("b", pool="r", rented=True)],
            gang("1", pools=("r",)),
            {},
            (("b", 1),),
            id="named-rented-pool",
        ),
    ],
)
def test_gangs_go_to_the_best_place(
    nodes: list[Node], demand: Demand, held: dict[str, int], expected: Placement | None
) -> None:
    assert placed(nodes, demand, held) == expected


def test_price_counts_by_gpu_not_by_node() -> None:
    large, small = node("large", 8, "l", usd_per_hour=16.0), node("small", 1, "s", usd_per_hour=3.0)
    assert placed([large, small], gang("1")) == (("large", 1),)


def test_cpus_and_memory_bind_as_well() -> None:
    nodes = [Node(name="a", total=Resources(cpus=1.5, gpus=8, memory_bytes=2**40))]
    assert placed(nodes, gang("1", 1, 1)) == (("a", 1),)
    assert placed(nodes, gang("1", 1, 2)) is None


def test_imagined_moves_leave_no_trace() -> None:
    floor = Floor(Ground([node("a"), node("b")]))
    before = list(floor.free)
    with floor.imagined():
        floor.take((("a", 3),), (1, 0, 0))
        with floor.imagined():
            floor.take((("a", 5), ("b", 1)), (1, 0, 0))
            floor.give((("a", 1),), (1, 0, 0))
        assert floor.free[0][0] == 5
    assert floor.free == before
    assert floor.find(Shape(gang("1", 8, 2), renting=False), 2) == (("a", 1), ("b", 1))
