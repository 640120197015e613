"""redis-py and pymemcache, one connection each, one command after the other, without retries: `steady.py REDIS MEMCACHED`.

It prints a line when both are connected. A line of standard input names the phase that begins. At the end of input it
prints what each phase was like.
"""

import json
import sys
import threading
import time

import pymemcache
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# Longer than this is a stall, and an error.
TIMEOUT = 20


class Phase:
    def __init__(self, name):
        self.name = name
        self.took = []
        self.errors = []

    def told(self):
        took = sorted(self.took)
        at = lambda share: took[min(int(len(took) * share), len(took) - 1)] * 1000 if took else None
        return {
            "phase": self.name,
            "commands": len(took),
            "median_ms": at(0.5),
            "p99_ms": at(0.99),
            "slowest_ms": at(1),
            "errors": self.errors,
        }


phases = [Phase("without")]
over = False


def listen():
    global over
    for line in sys.stdin:
        phases.append(Phase(line.strip()))
    over = True


def measured(command, *arguments):
    phase = phases[-1]
    begun = time.perf_counter()
    try:
        return command(*arguments)
    except Exception as error:
        phase.errors.append(repr(error))
    finally:
        phase.took.append(time.perf_counter() - begun)


r = redis.Redis(
    port=int(sys.argv[1]),
    socket_timeout=TIMEOUT,
    retry=Retry(NoBackoff(), 0),
    single_connection_client=True,
)
m = pymemcache.Client(("127.0.0.1", int(sys.argv[2])), timeout=TIMEOUT, connect_timeout=TIMEOUT, no_delay=True)
first = r.client_id()
m.version()
print("connected", flush=True)
threading.Thread(target=listen).start()
number = 0
while not over:
    number += 1
    value = b"%d" % number
    for client in (r, m):
        measured(client.set, "key", value)
        if measured(client.get, "key") != value:
            phases[-1].errors.append("another value")
print(json.dumps({"phases": [phase.told() for phase in phases], "reconnected": r.client_id() != first}))
