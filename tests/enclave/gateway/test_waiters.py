"""Futures of another thread in an event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from mesatee.enclave.gateway.waiters import Waiters


def futures(count: int) -> list[Future[int]]:
    return [Future[int]() for _ in range(count)]


def test_each_gets_what_its_future_gives() -> None:
    waiters = Waiters[int]()

    async def run() -> list[int | BaseException]:
        given = futures(300)
        waiting = [waiters.wait(future) for future in given]

        def end() -> None:
            for number, future in enumerate(given):
                if number % 7:
                    future.set_result(number)
                else:
                    future.set_exception(ValueError(number))

        thread = threading.Thread(target=end)
        thread.start()
        found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
        thread.join()
        return found

    for number, item in enumerate(asyncio.run(run())):
        if number % 7:
            assert item == number
        else:
            assert isinstance(item, ValueError)
            assert item.args == (number,)


def test_the_loop_is_told_once_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = Waiters[int]()

    async def run() -> int:
        loop, told = asyncio.get_running_loop(), 0
        tell = loop.call_soon_threadsafe

        def counted(*args: object) -> asyncio.Handle:
            nonlocal told
            told += 1
            return tell(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        given = futures(50)
        waiting = [waiters.wait(future) for future in given]
        for future in given:
            future.set_result(1)
        assert sum(await asyncio.gather(*waiting)) == 50
        # And again, for what ends later.
        late = futures(1)[0]
        waiter = waiters.wait(late)
        late.set_result(2)
        assert await waiter == 2
        return told

    assert asyncio.run(run()) == 2


def test_who_goes_away_cancels_nothing_else() -> None:
    waiters = Waiters[int]()

    async def run() -> None:
        one = futures(1)[0]
        gone, stays = waiters.wait(one), waiters.wait(one)
        gone.cancel()
        one.set_result(3)
        assert await stays == 3
        assert not one.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())


def test_what_has_ended_before_is_given() -> None:
    waiters = Waiters[int]()

    async def run() -> int:
        done = futures(1)[0]
        done.set_result(4)
        return await waiters.wait(done)

    assert asyncio.run(run()) == 4
    # In another loop, while something of the first one has not ended.
    assert asyncio.run(run()) == 4


def test_a_loop_that_is_gone_hears_nothing() -> None:
    waiters = Waiters[int]()
    late = futures(1)[0]

    async def ask() -> None:
        waiters.wait(late)

    async def other() -> int:
        given = futures(1)[0]
        waiter = waiters.wait(given)
        late.set_result(1)
        given.set_result(5)
        return await waiter

    asyncio.run(ask())
    assert asyncio.run(other()) == 5
