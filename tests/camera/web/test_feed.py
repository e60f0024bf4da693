"""One value for many readers: made once, newest first, never queued."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

from alexnet_edge.camera.web.feed import Feed
from tests.camera.web.conftest import run_apart


class Source:
    def __init__(self):
        self.value = None
        self.made_of = []
        self.broken = False

    def read(self):
        return self.value

    def make(self, value):
        if self.broken:
            raise ValueError("no picture")
        self.made_of.append(value)
        return str(value).encode()


def run(scenario, per_s=1000):
    async def body():
        source = Source()
        with ThreadPoolExecutor(1) as executor:
            await scenario(source, Feed(source.read, source.make, per_s, executor))

    run_apart(asyncio.wait_for(body(), 20))


async def take(stream, count):
    return [await anext_of(stream) for _ in range(count)]


def anext_of(stream):
    return stream.__anext__()


def test_nothing_is_made_unless_someone_asks():
    async def scenario(source, feed):
        for source.value in range(50):
            await asyncio.sleep(0.002)
        assert source.made_of == []
        assert await feed.newest() == b"49"
        assert await feed.newest() == b"49"
        assert source.made_of == [49]

    run(scenario)


def test_many_readers_cost_one_value():
    async def scenario(source, feed):
        source.value = 1
        streams = [feed.follow(60) for _ in range(20)]
        assert {(await anext_of(stream)) for stream in streams} == {b"1"}
        waiting = [asyncio.ensure_future(anext_of(stream)) for stream in streams]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        source.value = 2
        assert set(await asyncio.gather(*waiting)) == {b"2"}
        assert source.made_of == [1, 2]
        assert feed.readers == 20
        for stream in streams:
            await stream.aclose()
        assert feed.readers == 0

    run(scenario)


def test_a_slow_reader_is_given_the_newest():
    async def scenario(source, feed):
        source.value = 0
        async with contextlib.aclosing(feed.follow(60)) as stream:
            assert await anext_of(stream) == b"0"
            for source.value in range(1, 30):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert await anext_of(stream) == b"29"

    run(scenario)


def test_a_reader_that_comes_later_is_given_nothing_old():
    async def scenario(source, feed):
        source.value = "first"
        async with contextlib.aclosing(feed.follow(60)) as stream:
            await anext_of(stream)
        await asyncio.sleep(0.01)
        source.value = "second"
        async with contextlib.aclosing(feed.follow(60)) as stream:
            assert await anext_of(stream) == b"second"

    run(scenario)


def test_values_are_made_at_most_so_often():
    async def scenario(source, feed):
        async with contextlib.aclosing(feed.follow(60)) as stream:
            source.value = 0
            await anext_of(stream)
            for source.value in range(1, 40):
                assert await feed.newest() == b"0", "within the interval the last one will do"
        assert source.made_of == [0]

    run(scenario, per_s=1 / 3600)


def test_a_value_is_repeated_for_who_waits_long():
    async def scenario(source, feed):
        source.value = 1
        async with contextlib.aclosing(feed.follow(0.02)) as stream:
            assert await take(stream, 3) == [b"1"] * 3
        assert source.made_of == [1]

    run(scenario)


def test_closing_ends_the_readers():
    async def scenario(source, feed):
        async def read_all():
            return [value async for value in feed.follow(60)]

        empty = asyncio.ensure_future(read_all())
        await asyncio.sleep(0.02)
        source.value = 1
        await asyncio.sleep(0.1)
        feed.close()
        assert await empty == [b"1"]

    run(scenario)


def test_a_value_that_cannot_be_made_does_not_end_the_feed():
    async def scenario(source, feed):
        async with contextlib.aclosing(feed.follow(60)) as stream:
            waiting = asyncio.ensure_future(anext_of(stream))
            await asyncio.sleep(0.02)
            source.broken = True
            source.value = 1
            await asyncio.sleep(0.1)
            assert not waiting.done()
            source.broken = False
            assert await waiting == b"1"

    run(scenario)
