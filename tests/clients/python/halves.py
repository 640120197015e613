"""Both ends of many connections, on each of which the beginning of a request is sent and never its end.

Arguments: the port to listen on, how many connections, how often. After the last time all are held until standard input ends.
"""

import socket
import sys

KEYS = b"".join(b"$400\r\n" + str(number).encode().rjust(400, b"k") + b"\r\n" for number in range(25))
HALF = b"*60\r\n$4\r\nMGET\r\n" + KEYS


def main():
    port, count, rounds = map(int, sys.argv[1:])
    server = socket.create_server(("127.0.0.1", port), backlog=128)
    for turn in range(rounds):
        ends = []
        for number in range(count):
            one = socket.socket()
            one.bind((f"127.0.2.{number % 20 + 1}", 0))
            one.connect(("127.0.0.1", port))
            other, _ = server.accept()
            one.sendall(HALF)
            ends.append((other, one))
        print(len(ends), flush=True)
        if turn == rounds - 1:
            sys.stdin.read()
        for other, one in ends:
            # What was not read makes this a reset.
            other.close()
            one.close()


main()
