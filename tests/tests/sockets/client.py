"""Asks a redis-server and a memcached the same in odd ways. The value of key:N is N bytes long, so a reply tells its request."""
import array, faulthandler, fcntl, json, os, select, socket, sys, tempfile, termios, threading, time, traceback

sys.dont_write_bytecode = True
import calls
from calls import Ring, Vector

# Each case has a hundred keys of its own.
BEFORE, ODD, AFTER = range(1, 4), range(11, 17), range(21, 26)
LARGE = 300_000
ZEROCOPY, SO_ZEROCOPY = 0x4000000, 60


class Redis:
    def request(self, n):
        return b'*2\r\n$3\r\nGET\r\n$%d\r\nkey:%d\r\n' % (len('key:%d' % n), n)

    def reply(self, n):
        return b'$%d\r\n%s\r\n' % (n, b'v' * n)

    def store(self, n):
        return b'*3\r\n$3\r\nSET\r\n$%d\r\nkey:%d\r\n' % (len('key:%d' % n), n) + self.reply(n)

    stored = b'+OK\r\n'


class Memcached:
    def request(self, n):
        return b'get key:%d\r\n' % n

    def reply(self, n):
        return b'VALUE key:%d 0 %d\r\n%s\r\nEND\r\n' % (n, n, b'v' * n)

    def store(self, n):
        return b'set key:%d 0 0 %d\r\n%s\r\n' % (n, n, b'v' * n)

    stored = b'STORED\r\n'


def connect(address):
    s = socket.create_connection(address)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def take(s, reply, read=None):
    """Takes exactly this reply, by `read(length)` where it is given."""
    got = b''
    while len(got) < len(reply):
        left = len(reply) - len(got)
        piece = read(left) if read else s.recv(left)
        assert piece, got
        got += piece
    assert got == reply, (got[:100], reply[:100])


def ask(s, p, n, read=None):
    s.sendall(p.request(n))
    take(s, p.reply(n), read)


def arrived(s, length):
    """Waits until so many bytes can be taken."""
    waiting = array.array('i', [0])
    while waiting[0] < length:
        fcntl.ioctl(s.fileno(), termios.FIONREAD, waiting)
        time.sleep(0.001)


def pause():
    """Longer than any hole is held open, any boundary doubted."""
    time.sleep(0.3)


# Requests that leave in odd ways.

def sends(way):
    """A case in which each request leaves by `way(s, bytes)`."""
    def case(s, p):
        for n in ODD:
            way(s, p.request(n))
            take(s, p.reply(n))
    return case


def io_uring_send(s, p):
    ring, polled = Ring(), Ring(polled=True)
    ways = [ring.send, ring.write, ring.sendmsg, ring.send_zero_copy, ring.send_by_worker, polled.send]
    for n, way in zip(ODD, ways, strict=True):
        way(s, p.request(n))
        take(s, p.reply(n))


def through_pipe(s, data):
    r, w = os.pipe()
    os.write(w, data)
    assert os.splice(r, s.fileno(), len(data)) == len(data)
    os.close(r)
    os.close(w)


def from_file(s, data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert os.sendfile(s.fileno(), file.fileno(), 0, len(data)) == len(data)


def zero_copy(s, p):
    s.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    for n in ODD:
        assert s.send(p.request(n), ZEROCOPY) == len(p.request(n))
        take(s, p.reply(n))
    store = p.store(LARGE)
    while store:
        store = store[s.sendmsg([store[at:at + 50_000] for at in range(0, len(store), 50_000)], [], ZEROCOPY):]
    take(s, p.stored)


def sendmmsg(s, p):
    for n in ODD[::2]:
        # A whole request, and one in two pieces.
        one, two = p.request(n), p.request(n + 1)
        calls.sendmmsg(s, [Vector([one]), Vector([two[:5], two[5:]])])
        take(s, p.reply(n) + p.reply(n + 1))


def partial(s, p):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    s.setblocking(False)
    ways = [s.send, lambda left: os.write(s.fileno(), left),
            lambda left: s.sendmsg([left[at:at + 700] for at in range(0, min(len(left), 700_000), 700)])]
    for way in ways:
        left, pieces = p.store(LARGE), 0
        while left:
            try:
                left = left[way(left):]
                pieces += 1
            except BlockingIOError:
                select.select([], [s], [])
        assert pieces > 1
        s.setblocking(True)
        take(s, p.stored)
        for n in ODD[:2]:
            ask(s, p, n)
        s.setblocking(False)
    s.setblocking(True)


def vectors(s, p):
    # As many buffers as the kernel takes, of a byte each, then the rest.
    fd = s.fileno()
    for _ in range(20):
        s.sendall(b''.join(p.request(n) for n in ODD))
        whole = b''.join(p.reply(n) for n in ODD)
        arrived(s, len(whole))

        def scattered(left):
            into = [bytearray(1) for _ in range(min(left, 1024))]
            moved = os.readv(fd, into)
            return b''.join(into)[:moved]
        take(s, whole, scattered)
    whole = b''.join(p.request(n) for n in ODD) * 20
    for at in range(0, len(whole), 1024):
        piece = [whole[i:i + 1] for i in range(at, min(at + 1024, len(whole)))]
        assert s.sendmsg(piece) == len(piece)
    take(s, b''.join(p.reply(n) for n in ODD) * 20)
    # The kernel's copy of the array is short; this is beyond it, with empty ones.
    whole = p.store(3000)
    pieces = [part for at in range(0, len(whole), 100) for part in (whole[at:at + 100], b'')]
    assert os.writev(fd, pieces) == len(whole)
    take(s, p.stored)

    def uneven(left):
        into = [bytearray(size) for size in (0, 1, 0, 2999, 5000)]
        moved = s.recvmsg_into(into)[0]
        return b''.join(into)[:moved]
    s.sendall(p.request(3000))
    arrived(s, len(p.reply(3000)))
    take(s, p.reply(3000), uneven)


def plain_oddities(s, p):
    fd = s.fileno()
    for n in ODD:
        request = p.request(n)
        # Nothing at all; then corked, in pieces.
        assert s.send(b'') == 0 and os.write(fd, b'') == 0
        s.send(request[:7], socket.MSG_MORE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        os.write(os.dup(fd), request[7:9])
        s.sendto(request[9:], s.getpeername())
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
        take(s, p.reply(n), lambda n: s.recv(n, socket.MSG_WAITALL))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    # The end by itself: of one call 64 KiB are read, and what is left may only be value.
    ask(s, p, LARGE, lambda n: s.recv(max(n - 10, 10), socket.MSG_WAITALL))


def peek(s, p):
    for n in ODD:
        s.sendall(p.request(n))
        arrived(s, len(p.reply(n)))
        assert s.recv(3, socket.MSG_PEEK) == p.reply(n)[:3]
        assert s.recv(10_000, socket.MSG_PEEK) == p.reply(n)
        s.recv(10_000, socket.MSG_PEEK | socket.MSG_TRUNC)
        into = [bytearray(4), bytearray(10_000)]
        s.recvmsg_into(into, 0, socket.MSG_PEEK)
        take(s, p.reply(n))


def urgent(s, p):
    # Before a request, in a request, in a value: the server does not find the byte in the stream.
    for n in ODD:
        s.send(b'!', socket.MSG_OOB)
        pause()
        ask(s, p, n)
        pause()
    for cut in (5, len(p.store(3000)) - 1000):
        store = p.store(3000)
        s.sendall(store[:cut])
        s.sendmsg([b'!'], [], socket.MSG_OOB)
        s.sendall(store[cut:])
        take(s, p.stored)
        pause()


# Replies that are taken in odd ways.

def receives(way):
    """A case in which each reply is taken by `way(s, length)` once it is there."""
    def case(s, p):
        for n in ODD:
            s.sendall(p.request(n))
            arrived(s, len(p.reply(n)))
            take(s, p.reply(n), lambda length: way(s, length))
    return case


def io_uring_receive(s, p):
    ring, polled = Ring(), Ring(polled=True)
    ways = [ring.recv, ring.read, ring.recvmsg, ring.recv_by_worker, polled.recv]
    for n, way in zip(ODD[:-1], ways, strict=True):
        s.sendall(p.request(n))
        arrived(s, len(p.reply(n)))
        take(s, p.reply(n), lambda length: way(s, length))
    # Asked for before there is any: it comes while this thread leaves some other call.
    n = ODD[-1]
    wait = ring.recv_later(s, len(p.reply(n)))
    s.sendall(p.request(n))
    got = wait()
    assert got == p.reply(n), got


def to_pipe(s, length):
    r, w = os.pipe()
    moved = os.splice(s.fileno(), w, length)
    data = os.read(r, moved)
    os.close(r)
    os.close(w)
    return data


def thrown_away(s, p):
    for n in ODD:
        s.sendall(p.request(n))
        arrived(s, len(p.reply(n)))
        # Python gives back a buffer that nobody wrote to.
        assert len(s.recv(len(p.reply(n)), socket.MSG_TRUNC)) == len(p.reply(n))


def closed_unseen(s, p):
    for n in ODD:
        other = connect(s.getpeername())
        other.sendall(p.request(n))
        arrived(other, len(p.reply(n)))
        take(other, p.reply(n), lambda length: to_pipe(other, length))
        other.close()


def half_closed(s, p):
    for n in ODD:
        other = connect(s.getpeername())
        other.sendall(p.request(n))
        other.shutdown(socket.SHUT_WR)
        # By then the connection is over, though nobody has taken the reply.
        time.sleep(0.2)
        take(other, p.reply(n))
        assert other.recv(1) == b''
        other.close()


# Several processes, several threads.

def told(pids):
    return {f'key:{n}': pid for n, pid in pids.items()}


def fork(s, p):
    pids = {}
    for n in ODD:
        child = os.fork() if n % 2 else 0
        if n % 2 and not child:
            ask(s, p, n)
            os._exit(0)
        if child:
            assert os.waitpid(child, 0)[1] == 0
        else:
            ask(s, p, n)
        pids[n] = child or os.getpid()
    return told(pids)


def passed_on(s, p):
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        # Not the one that was inherited.
        s.close()
        for n in ODD[::2]:
            fds = socket.recv_fds(there, 1, 1)[1]
            s = socket.socket(fileno=fds[0])
            ask(s, p, n)
            s.close()
            there.send(b'.')
        os._exit(0)
    for n in ODD[::2]:
        socket.send_fds(here, [b'.'], [s.fileno()])
        assert here.recv(1)
        ask(s, p, n + 1)
    assert os.waitpid(child, 0)[1] == 0
    return told({n: child if n in ODD[::2] else os.getpid() for n in ODD})


def in_threads(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def shared(s, p):
    lock, asked = threading.Lock(), []

    def work():
        for _ in range(25):
            for n in ODD:
                with lock:
                    ask(s, p, n)
                    asked.append(n)
    in_threads(work, work, work, work)
    assert len(asked) == 600


def duplex(s, p):
    """One thread writes as fast as it can, while another reads."""
    numbers = [n for _ in range(100) for n in ODD]

    def write():
        for n in numbers:
            s.sendall(p.request(n))
    # Of one call 64 KiB are read.
    whole = b''.join(p.reply(n) for n in numbers)
    in_threads(write, lambda: take(s, whole, lambda left: s.recv(min(left, 30_000))))


def race(s, p):
    """Threads write at the same time, each a whole request a call."""
    each, numbers = 100, ODD[:4]
    whole = each * sum(len(p.reply(n)) for n in numbers)

    def write(n):
        for _ in range(each):
            s.send(p.request(n))

    def read():
        left = whole
        while left:
            left -= len(s.recv(min(left, 30_000)))
    in_threads(read, *(lambda n=n: write(n) for n in numbers))
    pause()


CASES = {
    'io_uring_send': io_uring_send,
    'registered_send': sends(calls.registered),
    'splice_send': sends(through_pipe),
    'sendfile': sends(from_file),
    'zero_copy': zero_copy,
    'sendmmsg': sendmmsg,
    'aio_send': sends(calls.aio_write),
    'compat_send': sends(calls.compat_write),
    'partial': partial,
    'vectors': vectors,
    'plain_oddities': plain_oddities,
    'peek': peek,
    'urgent': urgent,
    'io_uring_receive': io_uring_receive,
    'splice_receive': receives(to_pipe),
    'recvmmsg': receives(calls.recvmmsg),
    'aio_receive': receives(calls.aio_read),
    'compat_receive': receives(calls.compat_read),
    'zero_copy_receive': receives(calls.zero_copy_receive),
    'thrown_away': thrown_away,
    'closed_unseen': closed_unseen,
    'half_closed': half_closed,
    'fork': fork,
    'passed_on': passed_on,
    'shared': shared,
    'duplex': duplex,
    'race': race,
}


def run(redis, memcached, *cases):
    """Prints of each case and server a line: what came to nothing, or what the case has to say."""
    global BEFORE, ODD, AFTER
    for index, case in enumerate(cases):
        BEFORE, ODD, AFTER = [range(100 * index + a, 100 * index + b) for a, b in ((1, 4), (11, 17), (21, 26))]
        for port, protocol in ((redis, Redis()), (memcached, Memcached())):
            s = connect(('127.0.0.1', int(port)))
            try:
                for n in BEFORE:
                    ask(s, protocol, n)
                said = CASES[case](s, protocol)
                pause()
                # What was moved unseen shows at the next.
                ask(s, protocol, AFTER[0])
                pause()
                for n in AFTER[1:]:
                    ask(s, protocol, n)
                print(json.dumps({'case': case, 'error': None, 'pids': said}), flush=True)
            except Exception:
                print(json.dumps({'case': case, 'error': traceback.format_exc()}), flush=True)
            s.close()


def fast_open(port):
    """New connections whose first request travels with the SYN."""
    p, address = Redis(), ('127.0.0.1', int(port))

    def first(request, way):
        s = socket.socket()
        if way == 'connect':
            s.setsockopt(socket.IPPROTO_TCP, 30, 1)
            s.connect(address)
            s.sendall(request)
        else:
            s.setblocking(way == 'blocking')
            assert s.sendto(request, socket.MSG_FASTOPEN, address) == len(request)
            s.setblocking(True)
        return s
    for n, way in zip(ODD, ['blocking', 'unblocked', 'connect'] * 2, strict=True):
        s = first(p.store(n), way)
        take(s, p.stored)
        ask(s, p, n)
        s = first(p.request(n) + p.request(n), way)
        take(s, p.reply(n) * 2)
        pause()
    names, numbers = [line.split() for line in open('/proc/net/netstat') if line.startswith('TcpExt:')]
    assert int(dict(zip(names, numbers))['TCPFastOpenPassive']) == 2 * len(ODD)


def urgent_reply(port):
    """A server that sends an urgent byte between replies and within them."""
    p, listener = Redis(), socket.create_server(('127.0.0.1', int(port)))

    def serve():
        s, _ = listener.accept()
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in [*BEFORE, *ODD, *AFTER]:
            take(s, p.request(n))
            reply = p.reply(n)
            if n in ODD:
                # From before the reply on.
                cut = (n - ODD[0]) * 2
                s.sendall(reply[:cut])
                s.send(b'!', socket.MSG_OOB)
                reply = reply[cut:]
            s.sendall(reply)
    server = threading.Thread(target=serve)
    server.start()
    s = connect(('127.0.0.1', int(port)))
    for n in [*BEFORE, *ODD, *AFTER]:
        ask(s, p, n)
        pause()
    server.join()


# A call that nobody answers ends the test.
faulthandler.dump_traceback_later(600, exit=True)
if sys.argv[1] == 'fast_open':
    fast_open(*sys.argv[2:])
elif sys.argv[1] == 'urgent_reply':
    urgent_reply(*sys.argv[2:])
else:
    run(*sys.argv[1:])
