"""`make sim-raft SEEDS=10000`: many stories on all cores. `make sim-raft SEED=7`: that one, told."""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
from tests.sim.raft_sim import Outcome, run

_CHUNK: Final = 25


def run_all(seeds: Iterable[int]) -> list[Outcome]:
    """These stories, one after the other, in this process."""

    async def on_a_loop() -> list[Outcome]:
        return [run(seed) for seed in seeds]

    return asyncio.run(on_a_loop())


def quiet() -> None:
    """What the managers of a story log is of no use: it has another time."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@contextmanager
def quietly() -> Iterator[None]:
    before = structlog.get_config()
    quiet()
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.disable(logging.NOTSET)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="sim-raft")
    parser.add_argument("--seed", type=int, help="tell this story")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    chosen = parser.parse_args(arguments)
    quiet()
    if chosen.seed is not None:
        return _tell(chosen.seed)
    return _run_many(range(chosen.first, chosen.first + chosen.seeds))


def _tell(seed: int) -> int:
    (outcome,) = run_all([seed])
    print(outcome.story)
    print(f"seed {seed}: {outcome.violation or 'ends well'}; {outcome.acknowledged} writes acknowledged")
    return 1 if outcome.violation else 0


def _run_many(seeds: range) -> int:
    started = time.monotonic()
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    done = bad = acknowledged = 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), quiet) as pool:
        for outcomes in pool.imap_unordered(run_all, chunks):
            for each in outcomes:
                acknowledged += each.acknowledged
                if each.violation is not None:
                    bad += 1
                    print(f"seed {each.seed}: {each.violation}", flush=True)
            done += len(outcomes)
            if done % 1000 == 0:
                print(f"{done} of {len(seeds)} seeds, {bad} bad", flush=True)
    took = time.monotonic() - started
    print(f"{done} seeds, {acknowledged} writes acknowledged, {bad} violations, {took:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
