//! What neither the standard library nor aya offers: waiting for a ring's wake-up, reading the monotonic clock, and the
//! size of a page.
#![allow(
    unsafe_code,
    reason = "epoll, clock_gettime and sysconf have no safe wrapper here"
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::event::{Clock, Nanos};

/// Waits until the kernel programs ask for attention.
///
/// Edge-triggered: records that already wait do not end the wait, only a wake-up does. A level-triggered
/// one would return at once under load and turn the reader into a busy loop.
pub(crate) struct Waiter {
    epoll: OwnedFd,
}

impl Waiter {
    pub(crate) fn new(ring: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(),
            u64: 0,
        };
        // SAFETY: both descriptors are open, and `event` lives through the call.
        check(unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                ring.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(Self { epoll })
    }

    /// Waits up to `timeout`, rounded up to milliseconds.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let millis = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the descriptor is open, and there is room for the one event that is asked for.
        match check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, millis) })
        {
            Ok(_) => Ok(()),
            // A signal: the caller looks around anyway.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u32 {
    // SAFETY: a question without preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // No page is larger than 64 KiB.
    u32::try_from(size).unwrap_or(1 << 16)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Unix time minus monotonic time, as of now.
pub(crate) fn clock() -> Clock {
    // Of a few tries the one that took least, as the thread may be interrupted between two readings.
    let offset = (0..5)
        .map(|_| {
            let before = nanos(libc::CLOCK_MONOTONIC);
            let unix = nanos(libc::CLOCK_REALTIME);
            let after = nanos(libc::CLOCK_MONOTONIC);
            (after - before, unix - (before + (after - before) / 2))
        })
        .min_by_key(|&(took, _)| took)
        .map_or(0, |(_, offset)| offset);
    Clock { offset }
}

/// Now, on the clock of live events, nanoseconds.
#[must_use]
pub fn monotonic() -> Nanos {
    nanos(libc::CLOCK_MONOTONIC).unsigned_abs()
}

fn nanos(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the write. Both clocks exist on every Linux, so this cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn monotonic_time_becomes_unix_time() {
        let clock = clock();
        let ours = clock.unix_nanos(nanos(libc::CLOCK_MONOTONIC).cast_unsigned());
        let theirs = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!(u128::from(ours).abs_diff(theirs.as_nanos()) < 50_000_000);
    }
}
