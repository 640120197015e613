"""redis-py with asyncio: `asynchronous.py PORT PROTOCOL [ten_thousand]`."""

import asyncio
import sys

import redis.asyncio
import told

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])


def client(**options):
    return redis.asyncio.Redis(port=PORT, protocol=PROTOCOL, decode_responses=True, **options)


async def task(r, number):
    for n in range(1, 51):
        key = f"key:{number}:{n * number}"
        await r.set(key, told.value(key))
        assert len(await r.get(key)) == n * number
        assert await r.get(f"absent:{n}") is None
    told.hit("GET", 50)
    told.miss("GET", 50)


async def pipelines(r):
    for transaction in (False, True):
        for round_ in range(10):
            async with r.pipeline(transaction=transaction) as p:
                for n in range(1, 31):
                    key = f"key:{transaction:d}:{round_}:{n * 17}"
                    p.set(key, told.value(key)).get(key).get(f"absent:{n}")
                answers = await p.execute()
            assert [len(one) for one in answers[1::3]] == [n * 17 for n in range(1, 31)]
            told.hit("GET", 30)
            told.miss("GET", 30)
            told.batches["MULTI" if transaction else "PIPELINE"].append(90)


async def blocking(r):
    assert await r.blpop("queue", timeout=0.05) is None
    for n in range(1, 21):
        popped = asyncio.create_task(r.blpop("queue", timeout=10))
        await r.rpush("queue", "i" * n)
        assert len((await popped)[1]) == n


async def scripts(r):
    read = r.register_script("return redis.call('get', KEYS[1])")
    for n in range(1, 11):
        assert len(await read(keys=[f"key:1:{n}"])) == n
        told.scripts["GET"] += 1


async def published(r):
    async with r.pubsub() as p:
        await p.subscribe("news")
        messages = p.listen()
        assert (await anext(messages))["type"] == "subscribe"
        for n in range(1, 51):
            assert await r.publish("news", "m" * n) == 1
            assert len((await anext(messages))["data"]) == n
            told.pushes += 1
        await p.unsubscribe("news")
        assert (await anext(messages))["type"] == "unsubscribe"


async def ten_thousand(r):
    keys = [f"key:{n}:{1 + n * 7919 % 509}" for n in range(10_000)]
    for command in ("set", "get"):
        p = r.pipeline(transaction=False)
        for key in keys:
            p.set(key, told.value(key)) if command == "set" else p.get(key)
        answers = await p.execute()
    assert [len(one) for one in answers] == [len(told.value(key)) for key in keys]
    told.hit("GET", len(keys))
    await task(r, 1)


async def main():
    async with client() as r:
        if sys.argv[3:] == ["ten_thousand"]:
            await ten_thousand(r)
            return told.say()
        await task(r, 1)
        # Each has a connection of its own, and one thread serves them all.
        await asyncio.gather(*(task(r, number) for number in range(2, 12)))
        await pipelines(r)
        await blocking(r)
        await scripts(r)
        assert len({key async for key in r.scan_iter(match="key:*", count=50)}) >= 500
        await published(r)
    told.say()


asyncio.run(main())
