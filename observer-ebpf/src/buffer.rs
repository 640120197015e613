//! Where the bytes of a call are.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// Where the bytes of a call are. Not an enum with fields: type information for one, which any function
/// that the compiler leaves out of line would carry, is refused by the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) place: Place,
    /// Address of the bytes, or of the first segment that holds some.
    pub(crate) address: u64,
    /// How many segments there may be.
    pub(crate) count: u64,
    /// Bytes of the first segment to leave out.
    pub(crate) skip: u64,
}

/// Kinds of [`Buffer`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one piece of user memory.
    Plain,
    /// In several, which an array of `struct iovec` in user memory names.
    Segments,
    /// The same, with the array in kernel memory.
    KernelSegments,
    /// Nowhere that can be read.
    Unreadable,
}

impl Buffer {
    pub(crate) const UNREADABLE: Self = Self {
        place: Place::Unreadable,
        address: 0,
        count: 0,
        skip: 0,
    };

    #[inline(always)]
    pub(crate) fn plain(address: u64) -> Self {
        Self {
            place: Place::Plain,
            address,
            count: 0,
            skip: 0,
        }
    }
}

/// A `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Iovec {
    pub(crate) base: u64,
    pub(crate) len: u64,
}

impl Iovec {
    /// Element `index` of an array.
    #[inline(always)]
    pub(crate) fn read(array: u64, index: u64, kernel: bool) -> Option<Self> {
        let address = array.wrapping_add(index.wrapping_mul(16)) as *const Self;
        // SAFETY: the helpers check the address; an `Iovec` is two plain numbers.
        unsafe {
            if kernel {
                bpf_probe_read_kernel(address).ok()
            } else {
                bpf_probe_read_user(address).ok()
            }
        }
    }
}
