#!/usr/bin/env python3
"""Records the captures in this folder from real servers on loopback.

usage: unshare --net python3 tests/captures/record.py        (as root; needs tcpdump, ethtool, redis-server, memcached)

In a network namespace of its own the usual ports are free and nothing else is on the wire. The workloads below are
what the expectations in *.json describe: change both together.
"""
import pathlib, socket, struct, subprocess, time

HERE = pathlib.Path(__file__).parent
subprocess.run(["ip", "link", "set", "lo", "mtu", "1500", "up"], check=True)
# Segments as on a network, not as large as a call.
subprocess.run(["ethtool", "-K", "lo", "tso", "off", "gso", "off"], check=True)


def command(*words):
    parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


class Connection:
    def __init__(self, port, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self, request, pause=0.03):
        """Sends and takes whatever comes back until nothing more does."""
        self.socket.sendall(request)
        self.socket.settimeout(pause)
        got = b""
        try:
            while chunk := self.socket.recv(1 << 20):
                got += chunk
        except TimeoutError:
            pass
        return got

    def close(self):
        self.socket.close()
        time.sleep(0.02)


def basic(port):
    """Reads, writes, an error, several keys, a pipeline."""
    c = Connection(port)
    c(command("SET", "user:1", "hello", "EX", 60))
    c(command("GET", "user:1"))
    c(command("GET", "user:2"))
    c(command("MGET", "user:1", "user:2", "user:3"))
    c(command("LPUSH", "list", "one", "three"))
    c(command("LPUSH", "user:1", "x"))
    c(command("SET", "a", "1") + command("GET", "a") + command("INCR", "a") + command("GET", "b"))
    c(command("HSET", "h", "f", "value"))
    c(command("HGET", "h", "f"))
    c(command("HGET", "h", "absent"))
    c(command("DEL", "a", "b"))
    c(command("SELECT", 3))
    c(command("GET", "user:1"))
    c.close()


def resp3(port):
    """RESP3: its null, maps, doubles and pushes."""
    c = Connection(port)
    c(command("HELLO", 3, "SETNAME", "recorder"))
    c(command("GET", "absent"))
    c(command("HSET", "h", "f", "value", "g", "x"))
    c(command("HGETALL", "h"))
    c(command("ZADD", "z", "1.5", "m"))
    c(command("ZSCORE", "z", "m"))
    c(command("CLIENT", "TRACKING", "ON"))
    c(command("GET", "tracked"))
    other = Connection(port)
    other(command("SET", "tracked", "now"))
    c(command("GET", "tracked"))
    other.close()
    c.close()


def transaction(port):
    """MULTI and EXEC; one queued command fails when it runs, another is refused when it is queued."""
    c = Connection(port)
    c(command("SET", "n", "10"))
    c(command("MULTI"))
    c(command("GET", "n"))
    c(command("GET", "absent"))
    c(command("LPUSH", "n", "x"))
    c(command("EXEC"))
    c(command("MULTI"))
    c(command("SET", "n"))
    c(command("EXEC"))
    c(command("GET", "n"))
    c.close()


def large(port):
    """Values far beyond the snapshot length."""
    c = Connection(port)
    c(command("SET", "big", b"v" * 12_000), 0.1)
    c(command("GET", "big"), 0.1)
    c(command("SET", "small", "seven77"))
    c(command("GET", "small"))
    c.close()


def inline(port):
    """Commands as typed into telnet, cut into pieces."""
    c = Connection(port)
    c(b"SET key value\r\n")
    c(b"GET")
    c(b" key\r")
    c(b"\n")
    c(b"\r\nGET absent\r\nEXISTS key\n")
    c(b"*2\r\n$3\r\nGE")
    c(b"T\r\n$3\r\nkey\r\n")
    c.close()


def memcached(port):
    """The text protocol: stores, silent stores, several keys, counters, errors."""
    c = Connection(port)
    c(b"set a 0 60 5\r\nhello\r\n")
    c(b"get a\r\n")
    c(b"get b\r\n")
    c(b"set c 0 0 3 noreply\r\nabc\r\nget a b c\r\n")
    c(b"gets a\r\n")
    c(b"add a 0 0 1\r\nx\r\n")
    c(b"set n 0 0 2\r\n41\r\n")
    c(b"incr n 1\r\n")
    c(b"decr absent 1\r\n")
    c(b"touch a 100\r\n")
    c(b"delete a\r\n")
    c(b"delete a\r\n")
    c(b"version\r\n")
    c(b"quit\r\n")
    c.close()


def ipv6(port):
    c = Connection(port, "::1")
    c(command("SET", "key", "value"))
    c(command("GET", "key"))
    c.close()


def server(*words):
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    return process


def record(name, workload, port, *options):
    if port == 6379:
        running = server("redis-server", "--port", "6379", "--save", "", "--bind", "127.0.0.1", "::1")
    else:
        running = server("memcached", "-u", "root", "-U", "0", "-l", "127.0.0.1")
    tcpdump = subprocess.Popen(
        ["tcpdump", "-q", "-Z", "root", "-U", "--immediate-mode", "-w", HERE / name, *(options or ["-i", "lo"]), f"tcp port {port}"],
        stderr=subprocess.PIPE)
    tcpdump.stderr.readline()
    time.sleep(0.3)
    workload(port)
    time.sleep(0.3)
    for process in (tcpdump, running):
        process.terminate()
        process.wait()


def packets(name):
    """Global header and packets (seconds, microseconds, original length, bytes) of a pcap file."""
    data = (HERE / name).read_bytes()
    found, at = [], 24
    while at < len(data):
        seconds, micros, kept, length = struct.unpack_from("<4I", data, at)
        found.append((seconds, micros, length, data[at + 16:at + 16 + kept]))
        at += 16 + kept
    return data[:24], found


def write(name, header, all):
    body = b"".join(struct.pack("<4I", s, u, len(b), n) + b for s, u, n, b in all)
    (HERE / name).write_bytes(header + body)


def payload(packet):
    """Whether a packet on Ethernet with IPv4 carries payload."""
    ip = packet[3][14:]
    tcp = ip[(ip[0] & 15) * 4:]
    return struct.unpack_from(">H", ip, 2)[0] > (ip[0] & 15) * 4 + (tcp[12] >> 4) * 4


def derive():
    header, all = packets("redis_basic.pcap")
    first = next(i for i, p in enumerate(all) if payload(p))
    # As if the recorder had started late.
    write("redis_no_handshake.pcap", header, all[first:])
    # Every packet with payload once more right behind itself, and once more at the end.
    twice = [copy for p in all for copy in ([p, p] if payload(p) else [p])]
    write("redis_retransmitted.pcap", header, twice + [p for p in all if payload(p)][-3:])
    # A large value in segments of the loopback's size, of which two neighbours change places.
    large_header, large_all = packets("redis_large.pcap")
    moved = list(large_all)
    at = next(i for i in range(first, len(moved) - 1) if payload(moved[i]) and payload(moved[i + 1])
              and moved[i][3][34:36] == moved[i + 1][3][34:36])
    moved[at], moved[at + 1] = moved[at + 1], moved[at]
    write("redis_reordered.pcap", large_header, moved)
    # Only what the recorder's snapshot length would keep.
    write("redis_snaplen.pcap", large_header[:16] + struct.pack("<I", 128) + large_header[20:],
          [(s, u, n, b[:128]) for s, u, n, b in large_all])
    # Without link layer.
    write("redis_raw.pcap", header[:20] + struct.pack("<I", 101), [(s, u, n - 14, b[14:]) for s, u, n, b in all])
    # As pcapng, times in nanoseconds.
    def block(kind, body):
        body += b"\0" * (-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    out = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(1, struct.pack("<HHIHHB3xHH", 1, 0, 262144, 9, 1, 9, 0, 0))
    for s, u, n, b in all:
        time = s * 10**9 + u * 1000
        out += block(6, struct.pack("<5I", 0, time >> 32, time & 0xFFFFFFFF, len(b), n) + b)
    (HERE / "redis_basic.pcapng").write_bytes(out)


record("redis_basic.pcap", basic, 6379)
record("redis_cooked.pcap", basic, 6379, "-i", "any", "-y", "LINUX_SLL")
record("redis_cooked2.pcap", basic, 6379, "-i", "any", "-y", "LINUX_SLL2")
record("redis_resp3.pcap", resp3, 6379)
record("redis_transaction.pcap", transaction, 6379)
record("redis_large.pcap", large, 6379, "-i", "lo")
record("redis_inline.pcap", inline, 6379)
record("redis_ipv6.pcap", ipv6, 6379)
record("memcached_text.pcap", memcached, 11211)
derive()
(HERE / "redis_large.pcap").unlink()
