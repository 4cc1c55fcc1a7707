"""What a hand undid is told by network, in words."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.datapath_cases import desired, network, task

from swarmnet.core.datapath.desired import network_name
from swarmnet.core.datapath.layout import Layout, layout
from swarmnet.core.datapath.plan import plan
from swarmnet.core.datapath.repairs import repairs

ONE, TWO = network(1), network(2, encrypted=False)
WISH = desired(ONE, TWO, tasks=(task(1, ONE),))


def told(kernel: Layout) -> dict[str, str]:
    return repairs(plan(layout(WISH, 1500), kernel), WISH.networks)


def test_nothing_is_told_of_what_is_right() -> None:
    assert told(layout(WISH, 1500)) == {}


def test_what_went_is_told_with_its_network() -> None:
    kernel = layout(WISH, 1500)
    gone = next(iter(kernel.sas))
    del kernel.sas[gone]
    kernel.policies.popitem()
    kernel.tasks.clear()
    del kernel.networks[network_name(TWO.id)]
    found = told(kernel)
    assert found[ONE.id] == "1 SA put back, 1 policy put back"
    assert found[TWO.id].startswith("1 bridge or VXLAN device put back")
    assert found[""] == "1 task connected again"


def test_what_came_is_told_too() -> None:
    kernel = layout(WISH, 1500)
    sa = next(iter(kernel.sas.values()))
    stray = replace(sa, spi=sa.spi + 1)
    kernel.sas[stray.id] = stray
    assert told(kernel) == {ONE.id: "1 stray SA removed"}
