"""`make sim NODES=1000 SEED=7`: that story, told. `make sim SEEDS=1000`: many stories, on all cores."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

from tests.sim.gossip_story import Outcome, run

_CHUNK: Final = 5


def run_some(work: tuple[int, Sequence[int]]) -> list[Outcome]:
    size, seeds = work
    gc.disable()  # a story ends soon, and all of it with it
    outcomes = [run(seed, size) for seed in seeds]
    gc.collect()
    return outcomes


def run_all(size: int, seeds: range, processes: int | None = None) -> Iterable[list[Outcome]]:
    """On all cores; each seed by itself is the same wherever it runs."""
    chunks = [(size, seeds[at : at + _CHUNK]) for at in range(0, len(seeds), _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count()) as pool:
        yield from pool.imap_unordered(run_some, chunks)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="sim")
    parser.add_argument("--nodes", type=int, default=25)
    parser.add_argument("--seed", type=int, help="tell this story")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        return _tell(chosen.nodes, chosen.seed)
    return _run_many(chosen.nodes, range(chosen.first, chosen.first + chosen.seeds))


def _tell(size: int, seed: int) -> int:
    started = time.monotonic()
    outcome = run(seed, size)
    print("\n".join(outcome.told))
    print(f"seed {seed}, {size} nodes: {outcome.violation or 'ends well'}; {_amount([outcome], started)}")
    return 1 if outcome.violation else 0


def _run_many(size: int, seeds: range) -> int:
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for some in run_all(size, seeds):
        outcomes += some
        for each in some:
            if each.violation:
                print(f"make sim NODES={size} SEED={each.seed}: {each.violation}", flush=True)
    bad = sum(each.violation is not None for each in outcomes)
    print(f"{len(outcomes)} seeds of {size} nodes, {bad} violations; {_amount(outcomes, started)}")
    return 1 if bad else 0


def _amount(outcomes: Sequence[Outcome], started: float) -> str:
    datagrams = sum(each.datagrams for each in outcomes)
    simulated = sum(each.seconds for each in outcomes)
    took = time.monotonic() - started
    return f"{datagrams} datagrams in {simulated:.0f} s simulated, {took:.1f} s here"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
