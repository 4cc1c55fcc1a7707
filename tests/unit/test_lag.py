"""How late the event loop is: the worst of the last seconds, and how much of it was its own work."""

from __future__ import annotations

import asyncio
import time

from swarmnet.manager.lag import REMEMBERED_S, LoopLag
from swarmnet.manager.metrics import Reading, expose


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_longest_is_forgotten_after_a_while() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    for at, late, cpu in ((100, 0.3, 0.1), (101, 0.2, 0.2), (102, 0.01, 0.01)):
        lag.note(at, late, cpu)
    clock.now = 102
    assert lag.longest_s() == (0.3, 0.2)
    clock.now = 100 + REMEMBERED_S + 0.5
    assert lag.longest_s() == (0.2, 0.2)
    clock.now = 103 + REMEMBERED_S
    assert lag.longest_s() == (0.0, 0.0)


async def test_work_that_blocks_the_loop_shows_and_waiting_for_others_does_not_count_as_work() -> None:
    lag = LoopLag()
    running = asyncio.create_task(lag.run())
    await asyncio.sleep(0.02)
    end = time.process_time() + 0.08
    while time.process_time() < end:
        pass
    await asyncio.sleep(0.02)
    late, working = lag.longest_s()
    assert late >= working > 0.05
    time.sleep(0.3)  # noqa: ASYNC251  as if the machine gave the time to others
    await asyncio.sleep(0.02)
    late, working = lag.longest_s()
    assert late > 0.25 > working
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_metrics_tell_it() -> None:
    lag = LoopLag(Clock())
    lag.note(100, 0.06, 0.03)
    text = expose(Reading(lag=lag)).decode()
    assert "swarmnet_event_loop_lag_max_seconds 0.06" in text
    assert "swarmnet_event_loop_busy_max_seconds 0.03" in text
    assert 'swarmnet_event_loop_lag_seconds_bucket{le="0.05"} 0.0' in text
    assert 'swarmnet_event_loop_lag_seconds_bucket{le="0.075"} 1.0' in text
