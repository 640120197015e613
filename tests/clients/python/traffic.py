"""Traffic for dashboards, until SIGTERM: `traffic.py shop|crawler REDIS MEMCACHED CLOSED`, three ports.

`shop` looks into its caches first, and fills them on a miss; its threads share pools of connections. At SIGUSR1 it empties
both. `crawler` asks for what is never there, on a connection for each command. Nobody listens on CLOSED.
"""

import math
import random
import signal
import socket
import sys
import threading
import time

import pymemcache
import redis

ROLE, (REDIS, MEMCACHED, CLOSED) = sys.argv[1], map(int, sys.argv[2:5])
STOP = threading.Event()
FAILED = []
BEGUN = time.monotonic()


def pause(mean):
    """More and less traffic, in waves of a minute."""
    wave = 1 + 0.5 * math.sin((time.monotonic() - BEGUN) / 60 * 2 * math.pi)
    STOP.wait(random.expovariate(1 / mean) / wave)


def popular(count):
    """Some keys are asked for far more often than others."""
    return int(count ** random.random())


def value():
    return b"v" * min(200_000, int(random.lognormvariate(6, 1.5)))


def customer(pool):
    r = redis.Redis(connection_pool=pool)
    while not STOP.is_set():
        key = f"product:{popular(2000)}:page"
        if r.get(key) is None:
            r.set(key, value(), ex=random.choice((60, 300, 3600)))
        match random.randrange(40):
            case 0 | 1 | 2:
                r.mget([f"product:{popular(2000)}:page" for _ in range(5)])
            case 3 | 4:
                r.hincrby(f"cart:{popular(200)}", "items")
            case 5:
                r.incr("visits")
            case 6:
                # Busy for some milliseconds.
                r.eval("local n = 0 for i = 1, 1000000 do n = n + i end return n", 0)
            case 7:
                try:
                    r.lpop("visits")
                except redis.ResponseError:
                    pass
        pause(0.02)


def reader(pool):
    while not STOP.is_set():
        key = f"article-{popular(500)}"
        if pool.get(key) is None:
            pool.set(key, value(), expire=120)
        pause(0.03)


def multiplexed():
    """Sends a second request before the first is answered."""
    with socket.create_connection(("127.0.0.1", REDIS)) as connection:
        answers = connection.makefile("rb")
        while not STOP.is_set():
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$8\r\nabsent:1\r\n")
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$8\r\nabsent:2\r\n")
            for _ in range(2):
                assert answers.readline() == b"$-1\r\n"
            pause(0.2)


def crawler():
    while not STOP.is_set():
        with redis.Redis(port=REDIS, protocol=2, single_connection_client=True) as r:
            assert r.get(f"absent:{random.randrange(10**9)}") is None
        with socket.socket() as refused:
            assert refused.connect_ex(("127.0.0.1", CLOSED)) != 0
        pause(0.1)


def failed(error):
    threading.__excepthook__(error)
    FAILED.append(error)
    STOP.set()


def main():
    random.seed(ROLE)
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    if ROLE == "crawler":
        crawler()
        return
    caches = redis.BlockingConnectionPool(port=REDIS, protocol=2, max_connections=4, timeout=None)
    pages = pymemcache.PooledClient(("127.0.0.1", MEMCACHED), max_pool_size=3, no_delay=True)

    def empty(*_):
        redis.Redis(port=REDIS).flushall()
        pymemcache.Client(("127.0.0.1", MEMCACHED)).flush_all()

    signal.signal(signal.SIGUSR1, empty)
    threading.excepthook = failed
    workers = [threading.Thread(target=customer, args=(caches,)) for _ in range(6)]
    workers += [threading.Thread(target=reader, args=(pages,)) for _ in range(2)]
    workers.append(threading.Thread(target=multiplexed))
    for worker in workers:
        worker.start()
    # Signals arrive in the main thread.
    STOP.wait()
    for worker in workers:
        worker.join()
    if FAILED:
        sys.exit(1)


main()
