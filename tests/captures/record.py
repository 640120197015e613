#!/usr/bin/env python3
"""Records the captures in this folder from real servers on loopback.

usage: unshare --net python3 tests/captures/record.py [NAME…]    (as root; needs tcpdump, ethtool, redis-server, memcached)

Without names, all captures are recorded and derived anew; else only the named recordings.

In a network namespace of its own the usual ports are free and nothing else is on the wire. The workloads below are
what the expectations in *.json describe: change both together.
"""
import pathlib, socket, struct, subprocess, sys, time

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


def watch(port):
    """WATCH whose key changes, DISCARD, an empty transaction, a pipeline within one send."""
    c = Connection(port)
    c(command("SET", "w", "1"))
    c(command("WATCH", "w"))
    c(command("SET", "w", "22"))
    c(command("MULTI"))
    c(command("GET", "w"))
    c(command("EXEC"))
    c(command("MULTI"))
    c(command("SET", "w", "333"))
    c(command("DISCARD"))
    c(command("MULTI") + command("EXEC"))
    c(command("MULTI") + command("INCR", "w") + command("MGET", "w", "absent") + command("EXEC"))
    c.close()


def redirects(port):
    """Two nodes of a cluster: MOVED, ASK with ASKING, TRYAGAIN, CROSSSLOT, CLUSTERDOWN."""
    other = server("redis-server", "--port", "6380", "--save", "", "--cluster-enabled", "yes",
                   "--cluster-config-file", "/tmp/recorder-nodes-6380", "--unixsocket", "/tmp/recorder-6380.sock",
                   "--bind", "127.0.0.1")
    # Set up on connections of its own that the recorder does not see: the observed port is the first node's alone.
    first, second = Setup(6379), Setup(6380)
    c = Connection(port)
    c(command("GET", "a"))
    first("CLUSTER", "MEET", "127.0.0.1", "6380")
    # CRC16: "b" lies in slot 3300, "a" in 15495.
    first("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
    second("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
    while "cluster_state:ok" not in first("CLUSTER", "INFO") or "cluster_state:ok" not in second("CLUSTER", "INFO"):
        time.sleep(0.1)
    c(command("SET", "b", "here"))
    c(command("GET", "a"))
    c(command("GET", "b") + command("GET", "a"))
    c(command("MGET", "a", "b"))
    ids = [node("CLUSTER", "MYID") for node in (first, second)]
    first("CLUSTER", "SETSLOT", "3300", "MIGRATING", ids[1])
    second("CLUSTER", "SETSLOT", "3300", "IMPORTING", ids[0])
    c(command("GET", "b"))
    c(command("GET", "{b}gone"))
    c(command("MGET", "b", "{b}gone"))
    c.close()
    other.terminate()
    other.wait()


class Setup:
    """redis-cli on a node, by its unix socket's place: on a port that is recorded it would be in the capture."""

    def __init__(self, port):
        self.socket = f"/tmp/recorder-{port}.sock"

    def __call__(self, *words):
        return subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True).stdout.strip()


def blocking(port):
    """Blocking commands: served at once, later by another client, and not at all."""
    c, other = Connection(port), Connection(port)
    c(command("RPUSH", "queue", "one"))
    c(command("BLPOP", "queue", "0"))
    c(command("BLPOP", "queue", "empty", "0"), 0.05)
    other(command("RPUSH", "queue", "second"))
    c(b"")
    c(command("BRPOP", "queue", "0.1"), 0.3)
    c(command("XREAD", "COUNT", "1", "BLOCK", "100", "STREAMS", "stream", "$"), 0.3)
    c(command("XREAD", "COUNT", "1", "STREAMS", "stream", "0"))
    c(command("BLMOVE", "queue", "done", "LEFT", "RIGHT", "0.1"), 0.3)
    c(command("BZPOPMIN", "board", "0.1"), 0.3)
    c(command("WAIT", "0", "100"))
    other.close()
    c.close()


def databases(port):
    """SELECT that succeeds and that fails, in a pipeline and in a transaction; RESET."""
    c = Connection(port)
    c(command("SET", "k", "in 0"))
    c(command("SELECT", "9"))
    c(command("SET", "k", "in nine"))
    c(command("SELECT", "99"))
    c(command("GET", "k"))
    c(command("SELECT", "2") + command("GET", "k") + command("SELECT", "0") + command("GET", "k"))
    c(command("MULTI") + command("SELECT", "9") + command("GET", "k") + command("EXEC"))
    c(command("GET", "k"))
    c(command("RESET"))
    c(command("GET", "k"))
    c.close()


def pushes(port):
    """RESP3: messages and invalidations between replies; RESP2: messages, and what looks like one."""
    c, other = Connection(port), Connection(port)
    c(command("HELLO", "3", "SETNAME", "pushed"))
    c(command("SUBSCRIBE", "news", "sport"))
    other(command("PUBLISH", "news", "first"))
    c(b"")
    c(command("RPUSH", "list", "message", "news", "x"))
    c(command("LRANGE", "list", "0", "-1"))
    c(command("CLIENT", "TRACKING", "ON"))
    c(command("GET", "k"))
    other(command("SET", "k", "now"))
    c(command("PUBLISH", "sport", "to myself") + command("GET", "k"))
    c(command("UNSUBSCRIBE"))
    old = Connection(port)
    old(command("PSUBSCRIBE", "n*"))
    other(command("PUBLISH", "news", "second"))
    old(command("PING"))
    old(command("PUNSUBSCRIBE"))
    old(command("LRANGE", "list", "0", "-1"))
    for connection in (old, other, c):
        connection.close()


def reply_modes(port):
    """CLIENT REPLY OFF, SKIP, ON, each in a send of its own and in pipelines."""
    c = Connection(port)
    c(command("CLIENT", "REPLY", "SKIP"))
    c(command("SET", "k", "unanswered"))
    c(command("GET", "k"))
    c(command("CLIENT", "REPLY", "OFF"))
    c(command("SET", "k", "quiet") + command("INCR", "n") + command("GET", "absent"))
    c(command("CLIENT", "REPLY", "ON"))
    c(command("GET", "n"))
    c(command("CLIENT", "REPLY", "SKIP") + command("GET", "absent") + command("GET", "k"))
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


def binary(opcode, key=b"", value=b"", extras=b"", opaque=0, cas=0):
    body = extras + key + value
    return struct.pack(">BBHBBHIIQ", 0x80, opcode, len(key), len(extras), 0, 0, len(body), opaque, cas) + body


def memcached_binary(port):
    """The binary dialect: each outcome, silence, a cut value, statistics in parts, lengths that the server refuses."""
    c = Connection(port)
    store, minute, count = struct.pack(">II", 9, 60), struct.pack(">I", 60), struct.pack(">QQI", 1, 41, 0xFFFFFFFF)
    c(binary(0x01, b"a", b"hello", store))
    c(binary(0x00, b"a"))
    c(binary(0x0C, b"absent"))
    c(binary(0x02, b"a", b"x", store))
    c(binary(0x01, b"a", b"x", store, cas=12345))
    c(binary(0x0E, b"absent", b"x"))
    c(binary(0x05, b"absent", extras=count))
    c(binary(0x05, b"a", extras=count))
    c(binary(0x05, b"n", extras=count[:16] + minute))
    c(binary(0x1C, b"a", extras=struct.pack(">I", 4000000000)))
    c(binary(0x1D, b"absent", extras=minute))
    # Two stored in silence, three asked for, one of them is not there.
    c(binary(0x11, b"b", b"bb", store) + binary(0x11, b"c", b"ccc", store) + binary(0x0D, b"b") + binary(0x0D, b"d")
      + binary(0x0D, b"c") + binary(0x0A))
    large = binary(0x11, b"large", b"v" * 5000, store)
    c(large[:10])
    c(large[10:40])
    c(large[40:])
    # What went in silence is told by what comes next.
    c(binary(0x14, b"b") + binary(0x14, b"b", opaque=7) + binary(0x09, b"large") + binary(0x0A))
    c(binary(0x10, b"settings"))
    c(binary(0x21, b"PLAIN", b"\0user\0hunter2"))
    c(binary(0x3F))
    c(binary(0x18) + binary(0x0B))
    c(binary(0x00, b"k", extras=minute))
    c.close()


def meta(port):
    """The meta commands: values, silence, opaques, keys in base64, stale items."""
    c = Connection(port)
    c(b"ms user:1 5 T60 F3\r\nhello\r\n")
    c(b"mg user:1 v t\r\n")
    c(b"mg absent v\r\n")
    c(b"mg user:1 T30\r\n")
    c(b"ms user:1 1 ME\r\nx\r\n")
    c(b"ms user:1 1 C999\r\nx\r\n")
    c(b"ms YSBi 3 b q\r\nabc\r\n" + b"mg YSBi b v k q\r\n" + b"mg absent v k q\r\n" + b"mn\r\n")
    c(b"mg user:1 v q O1\r\n" + b"mg absent v q O2\r\n" + b"mg user:1 v q O3\r\n" + b"mn\r\n")
    c(b"ms n 2 q\r\n41\r\n" + b"ma n v\r\n" + b"ma absent q O4\r\n" + b"ma n D2 MD q\r\n" + b"mn\r\n")
    c(b"md n q O5\r\n" + b"md n q O6\r\n" + b"md absent O7\r\n")
    c(b"mg user:1 q v\r\n" + b"mg absent v q\r\n" + b"mn\r\n")
    c(b"md user:1 I T30\r\n")
    c(b"mg user:1 v\r\n")
    c(b"mg new v N30\r\n")
    c(b"me user:1\r\n")
    c(b"mg user:1 zz\r\n")
    c(b"get user:1 absent\r\n")
    c.close()


def administration(port):
    """Answers of many lines, refusals, statuses that are no errors, noreply wherever it is understood."""
    c = Connection(port)
    c(b"set a 0 0 5\r\nhello\r\nset b 0 0 1 noreply\r\nx\r\n")
    c(b"gets a\r\n")
    c(b"cas a 0 0 1 99999\r\nx\r\n")
    c(b"cas absent 0 0 1 1\r\nx\r\n")
    c(b"gat 100 a b absent\r\n")
    c(b"stats items\r\n")
    c(b"stats settings\r\n")
    c(b"lru_crawler metadump all\r\n", 0.5)
    c(b"slabs reassign 1 2\r\n")
    c(b"cache_memlimit 64 noreply\r\nverbosity 0\r\n")
    c(b"cache_memlimit 1\r\n")
    c(b"shutdown\r\n")
    c(b"incr a 1\r\n")
    c(b"flush_all noreply\r\nget a\r\n")
    c(b"nonsense\r\n")
    c.close()


class Datagrams:
    """A socket whose requests carry the frame header of Memcached's UDP."""

    def __init__(self, port):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 40123))
        self.server = ("127.0.0.1", port)

    def __call__(self, number, request, pause=0.05):
        """Sends a request and takes all datagrams of its reply."""
        self.socket.sendto(struct.pack(">HHHH", number, 0, 1, 0) + request, self.server)
        self.socket.settimeout(pause)
        try:
            while True:
                self.socket.recv(65536)
        except TimeoutError:
            pass


def udp(port):
    """Text, meta and binary over UDP: one datagram, many, none."""
    c = Datagrams(port)
    c(1, b"set a 0 60 5\r\nhello\r\n")
    c(2, b"get a\r\n")
    c(3, b"get absent\r\n")
    c(4, b"set quiet 0 0 3 noreply\r\nabc\r\n")
    c(5, b"mg a v O7\r\n")
    big = socket.create_connection(("127.0.0.1", port))
    big.sendall(b"set big 0 0 10000\r\n" + b"v" * 10_000 + b"\r\n")
    big.recv(100)
    big.close()
    c(6, b"get big\r\n", 0.1)
    c(7, struct.pack(">BBHBBHIIQ", 0x80, 0, 1, 0, 0, 0, 1, 9, 0) + b"a")
    c(8, b"delete a\r\n")
    c(9, b"nosuch\r\n")
    c.socket.close()


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
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    cluster = ["--cluster-enabled", "yes", "--cluster-config-file", "/tmp/recorder-nodes-6379"]
    if port == 6379:
        running = server("redis-server", "--port", "6379", "--save", "", "--unixsocket", "/tmp/recorder-6379.sock",
                         *(cluster if workload is redirects else []), "--bind", "127.0.0.1", "::1")
    else:
        running = server("memcached", "-u", "root", "-U", "11211" if workload is udp else "0", "-l", "127.0.0.1")
    tcpdump = subprocess.Popen(
        ["tcpdump", "-q", "-Z", "root", "-U", "--immediate-mode", "-w", HERE / name, *(options or ["-i", "lo"]),
         f"{'udp' if workload is udp else 'tcp'} port {port}"],
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
record("redis_watch.pcap", watch, 6379)
record("redis_redirects.pcap", redirects, 6379)
record("redis_blocking.pcap", blocking, 6379)
record("redis_databases.pcap", databases, 6379)
record("redis_pushes.pcap", pushes, 6379)
record("redis_reply_modes.pcap", reply_modes, 6379)
record("redis_large.pcap", large, 6379, "-i", "lo")
record("redis_inline.pcap", inline, 6379)
record("redis_ipv6.pcap", ipv6, 6379)
record("memcached_udp.pcap", udp, 11211)
record("memcached_text.pcap", memcached, 11211)
record("memcached_binary.pcap", memcached_binary, 11211)
record("memcached_meta.pcap", meta, 11211)
record("memcached_administration.pcap", administration, 11211)
if not sys.argv[1:]:
    derive()
    (HERE / "redis_large.pcap").unlink()
for left in pathlib.Path("/tmp").glob("recorder-*"):
    left.unlink()
