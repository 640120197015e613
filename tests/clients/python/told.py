"""What a program knows of its own traffic, to be compared with what was observed.

The value of `key:...:N` is N bytes long, so that a reply given to the wrong request shows; `absent:...` never exists.
"""

import collections
import json

hits = collections.Counter()
misses = collections.Counter()
# Commands that scripts call: the server counts them, and they are on no wire.
scripts = collections.Counter()
# Sizes of batches that hold keys.
batches = {"PIPELINE": [], "MULTI": []}
pushes = 0


def value(key):
    return "v" * int(key.rsplit(":", 1)[1])


def hit(operation, number=1):
    hits[operation] += number


def miss(operation, number=1):
    misses[operation] += number


def say():
    print(
        json.dumps(
            {
                "hits": hits,
                "misses": misses,
                "scripts": scripts,
                "batches": batches,
                "pushes": pushes,
            }
        )
    )
