"""redis-py from one thread and from two: `sync.py PORT PROTOCOL [PART…]`, without parts all but the last."""

import sys
import threading

import redis
import told

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])


def client(**options):
    return redis.Redis(port=PORT, protocol=PROTOCOL, decode_responses=True, **options)


def plain(r):
    for n in range(1, 301):
        key = f"key:{n}"
        assert r.set(key, told.value(key), ex=600)
        assert len(r.get(key)) == n
        assert r.get(f"absent:{n}") is None
        told.hit("GET")
        told.miss("GET")
    found = r.mget("key:3", "absent:1", "key:50", "absent:2", "key:4")
    assert [one and len(one) for one in found] == [3, None, 50, None, 4]
    told.hit("MGET", 3)
    told.miss("MGET", 2)
    r.hset("hash", mapping={f"field{n}": "x" * n for n in range(1, 9)})
    assert r.hget("hash", "field5") == "xxxxx"
    assert r.hget("hash", "none") is None
    told.hit("HGET")
    told.miss("HGET")
    assert len(r.hmget("hash", "field1", "none", "field2")) == 3
    told.hit("HMGET", 2)
    told.miss("HMGET")
    assert len(r.hgetall("hash")) == 8
    told.hit("HGETALL")
    assert r.incr("number") == 1
    assert r.delete("number", "absent:1") == 1
    assert r.expire("key:1", 60)
    try:
        r.lpush("key:1", "x")
        raise AssertionError("a list in a string")
    except redis.ResponseError:
        pass


def pipelines(r):
    for transaction in (False, True):
        for round_ in range(10):
            p = r.pipeline(transaction=transaction)
            for n in range(1, 31):
                key = f"key:{transaction:d}:{round_}:{n * 17}"
                p.set(key, told.value(key)).get(key).get(f"absent:{n}")
            answers = p.execute()
            assert [len(one) for one in answers[1::3]] == [n * 17 for n in range(1, 31)]
            told.hit("GET", 30)
            told.miss("GET", 30)
            told.batches["MULTI" if transaction else "PIPELINE"].append(90)


def watch(r):
    other = client()
    for conflict in (False, True, False):
        p = r.pipeline()
        p.watch("key:7")
        assert len(p.get("key:7")) == 7
        told.hit("GET")
        if conflict:
            other.set("key:7", told.value("key:7"))
        p.multi()
        p.set("key:7", told.value("key:7"))
        p.get("key:7")
        try:
            p.execute()
            told.hit("GET")
            assert not conflict
        except redis.WatchError:
            assert conflict
        told.batches["MULTI"].append(2)


def scripts(r):
    read = r.register_script("return redis.call('get', KEYS[1])")
    for n in range(1, 11):
        assert len(read(keys=[f"key:{n}"])) == n
        told.scripts["GET"] += 1
    p = r.pipeline(transaction=False)
    write = r.register_script("return redis.call('set', KEYS[1], ARGV[1])")
    for n in range(1, 6):
        write(keys=[f"key:{n}"], args=[told.value(f"key:{n}")], client=p)
        told.scripts["SET"] += 1
    p.execute()
    told.batches["PIPELINE"].append(5)


def scans(r):
    r.sadd("set", *range(1000))
    r.zadd("zset", {str(n): n for n in range(1000)})
    assert len(set(r.scan_iter(match="key:*", count=50))) >= 300
    assert len(set(r.sscan_iter("set", count=50))) == 1000
    assert len(list(r.zscan_iter("zset", count=50))) >= 1000
    assert len(dict(r.hscan_iter("hash"))) == 8


def blocking(r):
    assert r.blpop("queue", timeout=0.05) is None
    for n in range(1, 21):
        key = f"queue:{n}"
        thread = threading.Thread(target=lambda: client().rpush(key, "i" * n))
        thread.start()
        assert len(r.blpop(["another", key], timeout=10)[1]) == n
        thread.join()
    r.rpush("from", "item")
    assert r.blmove("from", "to", 1) == "item"


def published(r):
    p = r.pubsub()
    p.subscribe("news", "weather")
    p.psubscribe("w*")
    for _ in range(3):
        assert p.get_message(timeout=10)["type"].endswith("subscribe")
    for n in range(1, 51):
        assert r.publish("news", "m" * n) == 1
        assert len(p.get_message(timeout=10)["data"]) == n
        told.pushes += 1
    assert r.publish("weather", "rain") == 2
    for _ in range(2):
        assert p.get_message(timeout=10)["data"] == "rain"
        told.pushes += 1
    p.unsubscribe("news")
    assert p.get_message(timeout=10)["type"] == "unsubscribe"
    p.close()


def tracking(r):
    """Invalidations arrive between replies, on the same connection with RESP3."""
    other = client()
    r = client(single_connection_client=True)
    if PROTOCOL == 3:
        r.client_tracking_on()
        for n in range(1, 51):
            key = f"key:{n}"
            assert len(r.get(key)) == n
            other.set(key, told.value(key))
            told.pushes += 1
            # Reads the invalidation, then its own reply.
            assert len(r.get(f"key:{n + 1}")) == n + 1
            told.hit("GET", 2)
    else:
        listener = redis.Redis(port=PORT, protocol=2, single_connection_client=True)
        number = listener.client_id()
        p = listener.pubsub()
        p.connection_pool = listener.connection_pool
        p.connection = listener.connection
        p.subscribe("__redis__:invalidate")
        assert p.get_message(timeout=10)["type"] == "subscribe"
        r.client_tracking_on(clientid=number)
        for n in range(1, 51):
            key = f"key:{n}"
            assert len(r.get(key)) == n
            told.hit("GET")
            other.set(key, told.value(key))
            assert p.parse_response(timeout=10)[0] == b"message"
            told.pushes += 1


def ten_thousand(r):
    keys = [f"key:{n}:{1 + n * 7919 % 509}" for n in range(10_000)]
    for command in ("set", "get"):
        p = r.pipeline(transaction=False)
        for key in keys:
            p.set(key, told.value(key)) if command == "set" else p.get(key)
        answers = p.execute()
        told.batches["PIPELINE"].append(len(keys))
    assert [len(one) for one in answers] == [len(told.value(key)) for key in keys]
    told.hit("GET", len(keys))
    plain(r)


r = client()
parts = [plain, pipelines, watch, scripts, scans, blocking, published, tracking]
if sys.argv[3:]:
    parts = [globals()[name] for name in sys.argv[3:]]
for part in parts:
    part(r)
told.say()
