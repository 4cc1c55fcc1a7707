"""Many deadlines behind one timer; what is asked for in one turn of the loop is one step."""

from __future__ import annotations

import asyncio

from swarmnet.client.deadlines import Deadlines
from swarmnet.manager.raft.thread import Turn


async def test_each_key_is_told_of_once_in_order() -> None:
    over = asyncio.Queue[str]()
    deadlines = Deadlines(over.put_nowait)
    begun = asyncio.get_running_loop().time()
    for key, seconds in (("late", 0.09), ("soon", 0.03), ("never", 60.0), ("later", 0.06)):
        deadlines.add(key, seconds)
    async with asyncio.timeout(5):
        assert [await over.get() for _ in range(3)] == ["soon", "later", "late"]
    assert asyncio.get_running_loop().time() - begun >= 0.09
    assert over.empty()
    deadlines.close()


async def test_what_was_discarded_is_not_told_of() -> None:
    over = asyncio.Queue[str]()
    deadlines = Deadlines(over.put_nowait)
    deadlines.add("gone", 0.01)
    deadlines.add("kept", 0.03)
    deadlines.discard("gone")
    async with asyncio.timeout(5):
        assert await over.get() == "kept"


async def test_after_its_end_nothing_is_told() -> None:
    over: list[str] = []
    deadlines = Deadlines(over.append)
    deadlines.add("one", 0.0)
    deadlines.close()
    await asyncio.sleep(0.02)
    assert over == []


async def test_a_new_deadline_may_be_set_when_one_is_over() -> None:
    over = asyncio.Queue[str]()

    def again(key: str) -> None:
        over.put_nowait(key)
        if over.qsize() < 3:
            deadlines.add(key, 0.0)
        else:
            done.set()

    done = asyncio.Event()
    deadlines = Deadlines(again)
    deadlines.add("again", 0.0)
    async with asyncio.timeout(5):
        await done.wait()
    assert over.qsize() == 3


async def test_a_turn_is_handed_on_as_a_whole_and_in_order() -> None:
    handed: list[list[str]] = []
    turn = Turn(asyncio.get_running_loop(), lambda *acts: handed.append([act() for act in acts]))

    async def ask(name: str) -> None:
        turn.add(lambda: name)  # type: ignore[arg-type]

    await asyncio.gather(*(ask(name) for name in "abc"))
    await asyncio.sleep(0)
    await asyncio.gather(*(ask(name) for name in "de"))
    await asyncio.sleep(0)
    assert handed == [["a", "b", "c"], ["d", "e"]]
