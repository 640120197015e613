"""System calls that Python has no name for."""
import ctypes, mmap, os, platform, socket, struct

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number, *arguments):
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *longs))


def address(buffer):
    return ctypes.addressof(buffer)


class Piece(ctypes.Structure):
    """struct iovec."""
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct msghdr."""
    _fields_ = [('name', ctypes.c_void_p), ('name_length', ctypes.c_uint), ('pieces', ctypes.c_void_p),
                ('count', ctypes.c_size_t), ('control', ctypes.c_void_p), ('control_length', ctypes.c_size_t),
                ('flags', ctypes.c_int)]


class Numbered(ctypes.Structure):
    """struct mmsghdr."""
    _fields_ = [('message', Message), ('length', ctypes.c_uint)]


class Vector:
    """Buffers that hold `parts`, and the message that names them."""
    def __init__(self, parts):
        self.buffers = [ctypes.create_string_buffer(part, len(part)) for part in parts]
        self.array = (Piece * len(parts))(*((address(b), len(b)) for b in self.buffers))
        self.message = Message(None, 0, address(self.array), len(parts))

    def bytes(self):
        return b''.join(b.raw for b in self.buffers)


def several(vectors):
    return (Numbered * len(vectors))(*((vector.message,) for vector in vectors))


def sendmmsg(s, vectors):
    assert checked(libc.sendmmsg(s.fileno(), several(vectors), len(vectors), 0)) == len(vectors)


def recvmmsg(s, length):
    """Into two messages, the first of which holds half."""
    half = length // 2
    vectors = [Vector([bytes(half)]), Vector([bytes(5), bytes(length)])]
    messages = several(vectors)
    received = checked(libc.recvmmsg(s.fileno(), messages, 2, 0x10000, None))
    return b''.join(v.bytes()[:m.length] for v, m in zip(vectors, messages[:received]))


class Ring:
    """An io_uring of four entries. It tells of one call at a time."""
    SEND, RECV, READ, WRITE, SENDMSG, RECVMSG, SEND_ZC, WRITE_FIXED = 26, 27, 22, 23, 9, 10, 47, 5
    ASYNC = 1 << 4

    def __init__(self, polled=False):
        parameters = bytearray(120)
        if polled:
            struct.pack_into('=III', parameters, 8, 2, 0, 1000)
        buffer = (ctypes.c_char * 120).from_buffer(parameters)
        self.fd, self.polled = syscall(425, 4, ctypes.byref(buffer)), polled
        entries, completions = struct.unpack_from('=II', parameters)
        _, self.tail, self.mask, _, _, _, self.slots = struct.unpack_from('=7I', parameters, 40)
        self.head, _, self.done_mask, _, _, self.done = struct.unpack_from('=6I', parameters, 80)
        size = max(self.slots + 4 * entries, self.done + 16 * completions)
        self.ring = mmap.mmap(self.fd, size, offset=0)
        self.entries = mmap.mmap(self.fd, 64 * entries, offset=0x10000000)

    def word(self, at):
        return struct.unpack_from('=I', self.ring, at)[0]

    def submit(self, code, s, where, length, flags=0, call_flags=0, index=0):
        tail = self.word(self.tail)
        slot = tail & self.word(self.mask)
        struct.pack_into('=BBHiQQIIQHHIQQ', self.entries, 64 * slot, code, flags, 0, s.fileno(), 0, where, length,
                         call_flags, 0, index, 0, 0, 0, 0)
        struct.pack_into('=I', self.ring, self.slots + 4 * slot, slot)
        struct.pack_into('=I', self.ring, self.tail, tail + 1)
        # Wakes the thread that polls, where there is one.
        syscall(426, self.fd, 0 if self.polled else 1, 0, 2 if self.polled else 0, 0, 0)

    def wait(self):
        """Its result."""
        syscall(426, self.fd, 0, 1, 1, 0, 0)
        head = self.word(self.head)
        _, result, flags = struct.unpack_from('=QiI', self.ring, self.done + 16 * (head & self.word(self.done_mask)))
        struct.pack_into('=I', self.ring, self.head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        self.more = flags & 2
        return result

    def call(self, code, s, where, length, **more):
        self.submit(code, s, where, length, **more)
        return self.wait()

    def put(self, code, s, data, **more):
        buffer = ctypes.create_string_buffer(data, len(data))
        assert self.call(code, s, address(buffer), len(data), **more) == len(data)
        if self.more:
            # A call without copying tells of its end, and later that the buffer is free.
            self.wait()

    def send(self, s, data):
        self.put(self.SEND, s, data)

    def write(self, s, data):
        self.put(self.WRITE, s, data)

    def send_zero_copy(self, s, data):
        self.put(self.SEND_ZC, s, data)

    def send_by_worker(self, s, data):
        self.put(self.SEND, s, data, flags=self.ASYNC)

    def sendmsg(self, s, data):
        vector = Vector([data[:3], b'', data[3:]])
        assert self.call(self.SENDMSG, s, address(vector.message), 1) == len(data)

    def get(self, code, s, length, **more):
        buffer = ctypes.create_string_buffer(length)
        moved = self.call(code, s, address(buffer), length, **more)
        return buffer.raw[:moved]

    def recv(self, s, length):
        return self.get(self.RECV, s, length)

    def read(self, s, length):
        return self.get(self.READ, s, length)

    def recv_by_worker(self, s, length):
        return self.get(self.RECV, s, length, flags=self.ASYNC)

    def recvmsg(self, s, length):
        vector = Vector([bytes(3), bytes(length)])
        moved = self.call(self.RECVMSG, s, address(vector.message), 1)
        return vector.bytes()[:moved]

    def recv_later(self, s, length):
        buffer = ctypes.create_string_buffer(length)
        self.submit(self.RECV, s, address(buffer), length, call_flags=socket.MSG_WAITALL)

        def wait():
            moved = self.wait()
            return buffer.raw[:moved]
        return wait


def registered(s, data):
    """Out of a buffer whose pages the kernel has been told of before: it has no address there."""
    ring, buffer = Ring(), mmap.mmap(-1, 4096)
    buffer[:len(data)] = data
    piece = Piece(address(ctypes.c_char.from_buffer(buffer)), 4096)
    syscall(427, ring.fd, 0, ctypes.byref(piece), 1)
    assert ring.call(Ring.WRITE_FIXED, s, piece.base, len(data)) == len(data)


AIO = {'x86_64': (206, 209, 208), 'aarch64': (0, 2, 4)}


def aio(s, code, where, length):
    setup, submit, get = AIO[platform.machine()]
    context = ctypes.c_ulong(0)
    syscall(setup, 1, ctypes.byref(context))
    block = ctypes.create_string_buffer(
        struct.pack('=QIIHhIQQqQII', 0, 0, 0, code, 0, s.fileno(), where, length, 0, 0, 0, 0), 64)
    blocks = (ctypes.c_void_p * 1)(address(block))
    assert syscall(submit, context.value, 1, ctypes.byref(blocks)) == 1
    event = ctypes.create_string_buffer(32)
    assert syscall(get, context.value, 1, 1, ctypes.byref(event), None) == 1
    return struct.unpack_from('=q', event, 16)[0]


def aio_write(s, data):
    buffer = ctypes.create_string_buffer(data, len(data))
    assert aio(s, 1, address(buffer), len(data)) == len(data)


def aio_read(s, length):
    buffer = ctypes.create_string_buffer(length)
    moved = aio(s, 0, address(buffer), length)
    return buffer.raw[:moved]


def zero_copy_receive(s, length):
    """getsockopt(TCP_ZEROCOPY_RECEIVE), which copies what is no whole page."""
    buffer = ctypes.create_string_buffer(length)
    ask = ctypes.create_string_buffer(
        struct.pack('=QIIIiQiIQQII', 0, 0, 0, 0, 0, address(buffer), length, 0, 0, 0, 0, 0), 64)
    size = ctypes.c_uint(64)
    checked(libc.getsockopt(s.fileno(), socket.IPPROTO_TCP, 35, ask, ctypes.byref(size)))
    return buffer.raw[:struct.unpack_from('=i', ask, 32)[0]]


# Below 4 GiB, where a 32-bit call finds it.
LOW = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40


def compat(number, *arguments):
    """A system call as 32-bit programs make it (x86)."""
    code = mmap.mmap(-1, 4096, flags=LOW, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, edi; mov ebx, esi; xchg edx, ecx; xor esi, esi; xor edi, edi; int 0x80; pop rbx; ret
    code[:15] = bytes.fromhex('53 89f8 89f3 87ca 31f6 31ff cd80 5b c3')
    start = address(ctypes.c_char.from_buffer(code))
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 4)(start)
    result = call(number, *arguments)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def low(*parts):
    """An array of 32-bit `struct iovec`, and its buffers behind."""
    memory = mmap.mmap(-1, 65536, flags=LOW)
    start, at = address(ctypes.c_char.from_buffer(memory)), 8 * len(parts)
    for index, part in enumerate(parts):
        struct.pack_into('=II', memory, 8 * index, start + at, len(part))
        memory[at:at + len(part)] = part
        at += len(part)
    return memory, start


def compat_write(s, data):
    memory, start = low(data[:3], data[3:])
    assert compat(146, s.fileno(), start, 2) == len(data)


def compat_read(s, length):
    memory, start = low(bytes(3), bytes(length))
    moved = compat(145, s.fileno(), start, 2)
    return memory[16:16 + moved]
