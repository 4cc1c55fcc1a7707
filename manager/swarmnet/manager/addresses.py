"""Subnets and addresses of overlay networks: checked, chosen, and never given twice. All pure.

A subnet's first address is its gateway, reserved as docker does; tasks get addresses from the second on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument, ResourceExhausted

IPNetwork: TypeAlias = IPv4Network | IPv6Network

_LONGEST_PREFIX: Final = {4: 29, 6: 125}
"""Smaller subnets have no room for a gateway and a few tasks."""


def check_subnets(subnets: Sequence[str], networks: Iterable[types.Network]) -> list[types.Subnet]:
    """The subnets an operator gave, as they are stored. InvalidArgument if they overlap."""
    taken = list(_subnets_of(networks))
    found = []
    for text in subnets:
        subnet = parse_subnet(text)
        _check_free(subnet, taken)
        taken.append((subnet, "the same request"))
        found.append(_as_message(subnet))
    if sum(ip_network(each.cidr).version == 6 for each in found) > 1:  # their MACs are the last four bytes
        raise InvalidArgument(
            "more than one IPv6 subnet for one network",
            hint="Give one IPv6 subnet, as large as is needed, and as many IPv4 subnets as you like.",
        )
    return found


def parse_subnet(text: str) -> IPNetwork:
    """A CIDR such as 10.1.0.0/24. InvalidArgument unless tasks can live in it."""
    try:
        subnet = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(
            f"invalid subnet {text!r}: not an address and prefix length",
            hint="Write it as CIDR, for example --subnet 10.1.0.0/24.",
        ) from error
    if "/" not in text or ip_address(text.split("/", maxsplit=1)[0]) != subnet.network_address:
        raise InvalidArgument(
            f"invalid subnet {text!r}: it does not name a network but an address in {subnet}",
            hint=f"Did you mean --subnet {subnet}?" if "/" in text else f"Add a prefix length: {text}/24.",
        )
    if subnet.prefixlen > _LONGEST_PREFIX[subnet.version]:
        raise InvalidArgument(
            f"invalid subnet {text!r}: too small for a gateway and tasks",
            hint=f"Use a prefix length of {_LONGEST_PREFIX[subnet.version]} or less.",
        )
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.is_unspecified:
        raise InvalidArgument(
            f"invalid subnet {text!r}: tasks cannot use these addresses",
            hint="Use a private range, for example one in 10.0.0.0/8.",
        )
    return subnet


def _check_free(subnet: IPNetwork, taken: Iterable[tuple[IPNetwork, str]]) -> None:
    for other, owner in taken:
        if _overlap(subnet, other):
            raise InvalidArgument(
                f"subnet {subnet} overlaps {other} of {owner}",
                hint="Choose another subnet, or none: the swarm then chooses a free one.",
            )


def next_subnet(
    pools: Iterable[str], prefix_length: int, networks: Iterable[types.Network], avoid: Iterable[str] = ()
) -> types.Subnet:
    """The first free subnet of the pools that holds none of the addresses to avoid. ResourceExhausted."""
    taken = [subnet for subnet, _ in _subnets_of(networks)]
    underlay = [ip_address(each) for each in avoid]
    pools = list(pools)
    for subnet in _candidates(pools, prefix_length, taken):
        if not any(address in subnet for address in underlay):
            return _as_message(subnet)
    raise ResourceExhausted(
        f"no free subnet of prefix length {prefix_length} in the address pools {', '.join(pools)}",
        hint="Remove networks that are no longer used, or give a subnet: --subnet 172.20.0.0/24.",
    )


def _candidates(pools: Iterable[str], prefix_length: int, taken: Sequence[IPNetwork]) -> Iterator[IPNetwork]:
    """Free subnets, lowest first; a taken one that is larger is stepped over in one go."""
    for pool in (ip_network(each) for each in pools):
        if prefix_length < pool.prefixlen:
            continue
        size = 1 << (pool.max_prefixlen - prefix_length)
        first = int(pool.network_address)
        end = first + pool.num_addresses
        blocks = sorted(
            (int(each.network_address), int(each.broadcast_address))
            for each in taken
            if each.version == pool.version
        )
        at = 0
        while first < end:
            while at < len(blocks) and blocks[at][1] < first:
                at += 1
            if at == len(blocks) or blocks[at][0] >= first + size:
                yield type(pool)((first, prefix_length))
                first += size
            else:
                first = max(first + size, -(-(blocks[at][1] + 1) // size) * size)


def by_version(subnets: Iterable[types.Subnet]) -> list[tuple[int, list[types.Subnet]]]:
    """The subnets of each IP version that there is one of, IPv4 first."""
    found: dict[int, list[types.Subnet]] = {}
    for each in subnets:
        found.setdefault(ip_network(each.cidr).version, []).append(each)
    return sorted(found.items())


def free_addresses(subnets: Iterable[types.Subnet], used: set[str], stale: set[str]) -> Iterator[str]:
    """Addresses to give out, each once, with their prefix lengths, e.g. "10.0.1.3/24".

    `used` are addresses of tasks that may still run. `stale` are those of tasks that ended, which neighbours
    may still remember: they come last.
    """
    parsed = [ip_network(each.cidr) for each in subnets]
    for subnet in parsed:
        for address in _hosts(subnet):
            if address not in used and address not in stale:
                yield f"{address}/{subnet.prefixlen}"
    for subnet in parsed:
        for address in sorted(stale - used):
            if ip_address(address) in subnet:
                yield f"{address}/{subnet.prefixlen}"


def _hosts(subnet: IPNetwork) -> Iterator[str]:
    """From the second address on; not the last one, IPv4's broadcast."""
    first = int(subnet.network_address)
    of = type(subnet.network_address)
    return (str(of(first + n)) for n in range(2, subnet.num_addresses - 1))


def bare(address: str) -> str:
    """The address without its prefix length."""
    return address.split("/", maxsplit=1)[0]


def _subnets_of(networks: Iterable[types.Network]) -> Iterator[tuple[IPNetwork, str]]:
    for network in networks:
        for subnet in network.subnets:
            yield ip_network(subnet.cidr), f"network {network.name}"


def _overlap(a: IPNetwork, b: IPNetwork) -> bool:
    return (
        a.version == b.version
        and int(a.network_address) <= int(b.broadcast_address)
        and (int(b.network_address) <= int(a.broadcast_address))
    )


def _as_message(subnet: IPNetwork) -> types.Subnet:
    return types.Subnet(cidr=str(subnet), gateway=str(subnet[1]))
