"""Single commands, MGET with its rate, and a pipeline, with redis-py in database 1: `redis_py.py PORT`.

What it prints is described in told.cjs.
"""

import json
import sys

import redis

PORT = int(sys.argv[1])
CONNECTION = {
    "db.system": "redis",
    "db.name": "1",
    "net.peer.name": "127.0.0.1",
    "net.peer.port": str(PORT),
    "kind": "CLIENT",
}
calls = []


def told(operation, **facts):
    calls.append({"spans": [f"redis {operation}"], **CONNECTION, "db.operation": operation, **facts})


def keyed(operation, key, **facts):
    told(operation, **{"db.redis.key": key}, **facts)


def found(value):
    return {"cache.hit": True, "cache.value_size": len(value), "bytes": len(value)}


r = redis.Redis(host="127.0.0.1", port=PORT, db=1)
assert r.set("product:1", "x" * 300, ex=3600)
keyed("SET", "product:1", bytes=300)
assert r.set("product:2", "y" * 20)
keyed("SET", "product:2", bytes=20)
value = r.get("product:1")
keyed("GET", "product:1", **found(value))
assert r.get("product:3") is None
keyed("GET", "product:3", **{"cache.hit": False})

assert r.hset("stock", "1", "17") == 1
keyed("HSET", "stock:1", bytes=2)
value = r.hget("stock", "1")
keyed("HGET", "stock:1", **found(value))
assert r.hget("stock", "2") is None
keyed("HGET", "stock:2", **{"cache.hit": False})

keys = [f"product:{n}" for n in range(1, 6)]
values = r.mget(*keys)
hits = sum(value is not None for value in values)
assert hits == 2
told(
    "MGET",
    **{
        "db.redis.key_count": len(keys),
        "cache.hits": hits,
        "cache.misses": len(keys) - hits,
        "cache.hit_rate": hits / len(keys),
        "bytes": 320,
    },
)

assert r.delete("product:2", "product:3") == 1
keyed("DEL", "product:2, product:3")

# A pipeline of redis-py is a transaction, unless it is told not to be.
for transaction in (True, False):
    pipeline = r.pipeline(transaction=transaction)
    pipeline.set("product:4", "z" * 7).get("product:4")
    assert pipeline.execute() == [True, b"z" * 7]
    told(
        "PIPELINE",
        **{
            "db.redis.pipeline_length": 2,
            "transaction": transaction,
            "commands": [
                {"command": "SET", "bytes": 7},
                {"command": "GET", "cache.hit": True, "bytes": 7},
            ],
        },
    )

try:
    r.get("stock")
    raise AssertionError("a hash is no string")
except redis.ResponseError:
    keyed("GET", "stock", events=["exception"], error="WRONGTYPE")
r.close()
print(json.dumps({"calls": calls}))
