"""redis-py's pools: `redis_py.py PORT`. At each line that it prints it holds still until it is sent one."""

import json
import sys
import threading

import redis

PORT = int(sys.argv[1])


def hold(**numbers):
    print(json.dumps(numbers), flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the test is gone")


def numbers(pool):
    return {
        "size": len(pool._available_connections) + len(pool._in_use_connections),
        "used": len(pool._in_use_connections),
    }


def borrowed(client, names):
    """A thread for each name, which borrows a connection until something is pushed."""
    threads = [threading.Thread(target=client.blpop, args=(name, 60)) for name in names]
    for thread in threads:
        thread.start()
    return threads


def until(condition):
    event = threading.Event()
    while not condition():
        event.wait(0.01)


def plain():
    pool = redis.ConnectionPool(host="127.0.0.1", port=PORT)
    client = redis.Redis(connection_pool=pool)
    connections = [pool.get_connection() for _ in range(5)]
    for connection in connections:
        pool.release(connection)
    hold(**numbers(pool), opened=5, closed=0)
    names = [f"held:{n}" for n in range(3)]
    threads = borrowed(client, names)
    until(lambda: len(pool._in_use_connections) == 3)
    hold(**numbers(pool), opened=5, closed=0)
    # Two more than there are, of which one is idle again.
    for name in names:
        with redis.Redis(host="127.0.0.1", port=PORT) as other:
            other.rpush(name, "x")
    for thread in threads:
        thread.join()
    hold(**numbers(pool), opened=8, closed=3)
    pool.disconnect()
    hold(size=0, used=0, opened=8, closed=8)


def blocking():
    """As many as there are, and three threads that wait to borrow one: nothing of that is on the wire."""
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1", port=PORT, max_connections=3, timeout=60
    )
    client = redis.Redis(connection_pool=pool)
    threads = borrowed(client, [f"waited:{n}" for n in range(6)])
    until(lambda: sum(1 for c in pool._connections if c._sock) == 3)
    hold(size=3, used=3, opened=11, closed=8, waiting=3)
    with redis.Redis(host="127.0.0.1", port=PORT) as other:
        for n in range(6):
            other.rpush(f"waited:{n}", "x")
    for thread in threads:
        thread.join()
    hold(size=3, used=0, opened=12, closed=9)
    pool.disconnect()
    hold(size=0, used=0, opened=12, closed=12)


plain()
blocking()
