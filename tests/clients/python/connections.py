"""Opens connections, asks one question on each, and closes them again: half of them orderly, half with a reset.

Arguments: the port, how many, and the length of the value of key:N less N. Each reply is checked.
"""

import socket
import struct
import sys
from multiprocessing import Process

PROCESSES = 2
ADDRESSES = 20


def ask(port, number, base):
    key = number % 500
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Ports of connections that were closed in order rest for a minute: there are enough of several addresses.
        one.bind((f"127.0.1.{number % ADDRESSES + 1}", 0))
        one.connect(("127.0.0.1", port))
        name = f"key:{key}"
        one.sendall(f"*2\r\n$3\r\nGET\r\n${len(name)}\r\n{name}\r\n".encode())
        want = base + key
        reply = b""
        while len(reply) < len(f"${want}\r\n") + want + 2:
            more = one.recv(4096)
            if not more:
                raise SystemExit(f"{name}: the server has closed")
            reply += more
        head = f"${want}\r\n={name};".encode()
        if not reply.startswith(head):
            raise SystemExit(f"{name}: {reply[:40]!r}")
        if number % 2:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def work(port, numbers, base):
    for number in numbers:
        ask(port, number, base)


def main():
    port, count, base = map(int, sys.argv[1:])
    parts = [range(part, count, PROCESSES) for part in range(PROCESSES)]
    processes = [Process(target=work, args=(port, part, base)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


main()
