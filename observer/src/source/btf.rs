//! A small reader of the kernel's type information: where a field lies in this very kernel.
//!
//! Rust emits no CO-RE relocations, so offsets are looked up at start and handed to the programs. Only what
//! that takes is read: members (also of anonymous structures inside), enumerators, parameter names.
//! Format: `Documentation/bpf/btf.rst` of the kernel.

use std::{fs, io};

/// Where the kernel shows its own types.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Structures inside structures are followed this deep; the kernel's own stay far below.
const MAX_DEPTH: u32 = 16;

/// Why type information could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read: the kernel was built without `CONFIG_DEBUG_INFO_BTF`, or /sys is missing.
    #[error("{KERNEL} cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The bytes are not BTF.
    #[error("malformed BTF: {what} at byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// This kernel has no such structure, field, enumerator or function.
    #[error("this kernel has no {0}")]
    Missing(String),
    /// A field is not what the programs expect.
    #[error("{field} is not where the programs expect it: {why}")]
    Unexpected {
        /// `struct.field`.
        field: String,
        /// What differs.
        why: String,
    },
}

impl BtfError {
    /// What the user can do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Read(_) => {
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as all common distributions' are, and mount /sys"
            }
            Self::Malformed { .. } | Self::Missing(_) | Self::Unexpected { .. } => {
                "boot another version of the kernel, and report this one's"
            }
        }
    }
}

/// Where a field lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the structure.
    pub offset: u32,
    /// Bytes it takes; 0 for a flexible array.
    pub size: u32,
}

/// Parsed type information.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Byte position of each type by its id; 0, `void`, has none.
    types: Vec<u32>,
    /// Byte position of the strings and of their end.
    strings: (usize, usize),
}

const MAGIC: u16 = 0xeb9f;

// Kinds that matter here; `btf.rst` lists all.
const PTR: u8 = 2;
const ARRAY: u8 = 3;
const STRUCT: u8 = 4;
const UNION: u8 = 5;
const ENUM: u8 = 6;
const FUNC: u8 = 12;
const FUNC_PROTO: u8 = 13;
const ENUM64: u8 = 19;

/// Kinds whose second word is another type: typedef, volatile, const, restrict, type tag.
const ALIASES: [u8; 5] = [8, 9, 10, 11, 18];

impl Btf {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// When they are missing or malformed.
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(KERNEL).map_err(BtfError::Read)?)
    }

    /// Indexes `data`.
    ///
    /// # Errors
    /// When it is not BTF of this machine's byte order, or is cut short.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self {
            data,
            types: vec![0],
            strings: (0, 0),
        };
        if btf.u16(0)? != MAGIC {
            return Err(malformed("no magic number", 0));
        }
        let header = btf.u32(4)? as usize;
        let section = |offset: u32, length: u32| {
            let start = header.checked_add(offset as usize)?;
            let end = start.checked_add(length as usize)?;
            (end <= btf.data.len()).then_some((start, end))
        };
        let (start, end) =
            section(btf.u32(8)?, btf.u32(12)?).ok_or(malformed("types outside of the data", 8))?;
        let strings = section(btf.u32(16)?, btf.u32(20)?)
            .ok_or(malformed("strings outside of the data", 16))?;
        btf.strings = strings;
        let mut at = start;
        while at < end {
            let id = u32::try_from(at).map_err(|_| malformed("more than 4 GiB of types", at))?;
            btf.types.push(id);
            at = at
                .checked_add(12 + btf.trailer(at)?)
                .filter(|&next| next <= end)
                .ok_or(malformed("a type beyond the end of the types", at))?;
        }
        Ok(btf)
    }

    /// Finds `path`, such as `ns.inum`, in `structure`, looking into anonymous members too.
    ///
    /// # Errors
    /// [`BtfError::Missing`] naming `structure.path`.
    pub fn field(&self, structure: &str, path: &str) -> Result<Field, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{path}"));
        let mut id = self
            .find(&[STRUCT, UNION], structure)?
            .ok_or_else(missing)?;
        let mut bits = 0;
        let mut field = None;
        for name in path.split('.') {
            let (offset, member) = self.member(id, name, 0)?.ok_or_else(missing)?;
            bits += offset;
            id = self.resolve(member)?;
            field = Some(self.size(id, 0)?);
        }
        let size = field.ok_or_else(missing)?;
        if bits % 8 != 0 {
            let field = format!("{structure}.{path}");
            return Err(BtfError::Unexpected {
                field,
                why: format!("it is a bit field at bit {bits}"),
            });
        }
        Ok(Field {
            offset: bits / 8,
            size,
        })
    }

    /// Whether there is a structure of that name.
    ///
    /// # Errors
    /// When the data is malformed.
    pub fn has_struct(&self, name: &str) -> Result<bool, BtfError> {
        Ok(self.find(&[STRUCT], name)?.is_some())
    }

    /// Whether there is a function of that name.
    ///
    /// # Errors
    /// When the data is malformed.
    pub fn has_function(&self, name: &str) -> Result<bool, BtfError> {
        Ok(self.find(&[FUNC], name)?.is_some())
    }

    /// Value of an enumerator.
    ///
    /// # Errors
    /// [`BtfError::Missing`] naming it.
    pub fn enumerator(&self, name: &str, value: &str) -> Result<u64, BtfError> {
        let missing = || BtfError::Missing(format!("enum {name} with {value}"));
        let id = self.find(&[ENUM, ENUM64], name)?.ok_or_else(missing)?;
        let at = self.at(id)?;
        let wide = self.kind(at)? == ENUM64;
        for index in 0..self.count(at)? {
            let entry = at + 12 + index * if wide { 12 } else { 8 };
            if self.name_is(self.u32(entry)?, value) {
                let low = u64::from(self.u32(entry + 4)?);
                return Ok(if wide {
                    low | u64::from(self.u32(entry + 8)?) << 32
                } else {
                    low
                });
            }
        }
        Err(missing())
    }

    /// Names of a function's parameters, in order.
    ///
    /// # Errors
    /// [`BtfError::Missing`] naming the function.
    pub fn parameters(&self, function: &str) -> Result<Vec<String>, BtfError> {
        let id = self
            .find(&[FUNC], function)?
            .ok_or_else(|| BtfError::Missing(format!("function {function}")))?;
        let at = self.at(self.u32(self.at(id)? + 8)?)?;
        if self.kind(at)? != FUNC_PROTO {
            return Err(malformed("a function without a prototype", at));
        }
        (0..self.count(at)?)
            .map(|index| {
                let name = self.string(self.u32(at + 12 + index * 8)?);
                Ok(String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    }

    /// Offset in bits and type of a member, also of one inside an anonymous member.
    fn member(&self, id: u32, name: &str, depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        let at = self.at(id)?;
        if ![STRUCT, UNION].contains(&self.kind(at)?) {
            return Ok(None);
        }
        if depth > MAX_DEPTH {
            return Err(malformed("anonymous members without end", at));
        }
        // With the flag set, the upper byte of an offset is the width of a bit field.
        let mask = if self.u32(at + 4)? >> 31 == 1 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        for index in 0..self.count(at)? {
            let entry = at + 12 + index * 12;
            let (called, member) = (self.u32(entry)?, self.u32(entry + 4)?);
            let offset = self.u32(entry + 8)? & mask;
            if self.name_is(called, name) {
                return Ok(Some((offset, member)));
            }
            if self.string(called).is_empty()
                && let Some((inner, found)) = self.member(self.resolve(member)?, name, depth + 1)?
            {
                let offset = offset
                    .checked_add(inner)
                    .ok_or(malformed("an offset too large", entry))?;
                return Ok(Some((offset, found)));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MAX_DEPTH {
            if id == 0 {
                return Ok(0);
            }
            let at = self.at(id)?;
            if !ALIASES.contains(&self.kind(at)?) {
                return Ok(id);
            }
            id = self.u32(at + 8)?;
        }
        Err(malformed("typedefs without end", 0))
    }

    fn size(&self, id: u32, depth: u32) -> Result<u32, BtfError> {
        if id == 0 {
            return Ok(0);
        }
        let at = self.at(id)?;
        match self.kind(at)? {
            PTR => Ok(8),
            ARRAY if depth < MAX_DEPTH => {
                let element = self.size(self.resolve(self.u32(at + 12)?)?, depth + 1)?;
                Ok(element.saturating_mul(self.u32(at + 20)?))
            }
            ARRAY => Err(malformed("arrays without end", at)),
            FUNC | FUNC_PROTO => Ok(0),
            _ => self.u32(at + 8),
        }
    }

    fn find(&self, kinds: &[u8], name: &str) -> Result<Option<u32>, BtfError> {
        for (id, &at) in self.types.iter().enumerate().skip(1) {
            let at = at as usize;
            if kinds.contains(&self.kind(at)?) && self.name_is(self.u32(at)?, name) {
                return Ok(u32::try_from(id).ok());
            }
        }
        Ok(None)
    }

    fn at(&self, id: u32) -> Result<usize, BtfError> {
        let at = self.types.get(id as usize).copied().unwrap_or(0) as usize;
        if at == 0 {
            Err(malformed("a type id without a type", id as usize))
        } else {
            Ok(at)
        }
    }

    fn kind(&self, at: usize) -> Result<u8, BtfError> {
        Ok((self.u32(at + 4)? >> 24 & 0x1f) as u8)
    }

    fn count(&self, at: usize) -> Result<usize, BtfError> {
        Ok((self.u32(at + 4)? & 0xffff) as usize)
    }

    /// Bytes behind the three words that each type begins with.
    fn trailer(&self, at: usize) -> Result<usize, BtfError> {
        let count = self.count(at)?;
        match self.kind(at)? {
            // int, variable, declaration tag.
            1 | 14 | 17 => Ok(4),
            ARRAY => Ok(12),
            // struct, union, data section, enum64.
            STRUCT | UNION | 15 | ENUM64 => Ok(12 * count),
            ENUM | FUNC_PROTO => Ok(8 * count),
            // pointer, forward, aliases, function, float.
            PTR | 7..=12 | 16 | 18 => Ok(0),
            _ => Err(malformed("a type of unknown kind", at)),
        }
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let start = self.strings.0 + offset as usize;
        let end = start + name.len();
        end < self.strings.1 && self.data[start..end] == *name.as_bytes() && self.data[end] == 0
    }

    fn string(&self, offset: u32) -> &[u8] {
        let tail = self
            .data
            .get(self.strings.0 + offset as usize..self.strings.1)
            .unwrap_or_default();
        tail.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn u16(&self, at: usize) -> Result<u16, BtfError> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], BtfError> {
        let tail = self.data.get(at..).and_then(|tail| tail.first_chunk());
        tail.copied().ok_or(malformed("cut short", at))
    }
}

fn malformed(what: &'static str, at: usize) -> BtfError {
    BtfError::Malformed { what, at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types as words, names at the offsets that [`STRINGS`] gives.
    fn btf(types: &[u32]) -> Vec<u8> {
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, STRINGS.len() as u32] {
            data.extend(u32::to_ne_bytes(word));
        }
        for word in types {
            data.extend(word.to_ne_bytes());
        }
        data.extend(STRINGS);
        data
    }

    /// `outer` at 1, `a` at 7, `inner` at 9, `int` at 15, `f` at 19.
    const STRINGS: &[u8] = b"\0outer\0a\0inner\0int\0f\0";

    const fn info(kind: u32, count: u32) -> u32 {
        kind << 24 | count
    }

    /// `struct outer { struct { int : 32 bits in; int inner; }; int a[3]; }`, an enum and a function.
    fn sample() -> Vec<u32> {
        let mut types = vec![];
        types.extend([15, info(1, 0), 4, 32]); // 1: int
        types.extend([0, info(4, 1), 8, 9, 1, 32]); // 2: anonymous struct, inner at bit 32
        types.extend([0, info(3, 0), 0, 1, 1, 3]); // 3: int[3]
        types.extend([0, info(10, 0), 2]); // 4: const 2
        types.extend([1, info(4, 2), 28, 0, 4, 64, 7, 3, 128]); // 5: outer
        types.extend([1, info(6, 2), 4, 7, 5, 9, 6]); // 6: enum outer { a = 5, inner = 6 }
        types.extend([0, info(13, 2), 1, 7, 1, 9, 1]); // 7: int (int a, int inner)
        types.extend([19, info(12, 0), 7]); // 8: f
        types
    }

    #[test]
    fn members_enumerators_and_parameters_are_found() {
        let btf = Btf::parse(btf(&sample())).unwrap();
        assert_eq!(
            btf.field("outer", "inner").unwrap(),
            Field {
                offset: 12,
                size: 4
            }
        );
        assert_eq!(
            btf.field("outer", "a").unwrap(),
            Field {
                offset: 16,
                size: 12
            }
        );
        assert_eq!(btf.enumerator("outer", "inner").unwrap(), 6);
        assert_eq!(btf.parameters("f").unwrap(), ["a", "inner"]);
        assert!(btf.has_struct("outer").unwrap() && !btf.has_struct("int").unwrap());
    }

    #[test]
    fn what_is_missing_is_named() {
        let btf = Btf::parse(btf(&sample())).unwrap();
        let text = |error: BtfError| error.to_string();
        assert_eq!(
            text(btf.field("outer", "b").unwrap_err()),
            "this kernel has no outer.b"
        );
        assert_eq!(
            text(btf.field("oute", "a").unwrap_err()),
            "this kernel has no oute.a"
        );
        assert_eq!(
            text(btf.field("outer", "a.b").unwrap_err()),
            "this kernel has no outer.a.b"
        );
        assert_eq!(
            text(btf.enumerator("outer", "f").unwrap_err()),
            "this kernel has no enum outer with f"
        );
        assert_eq!(
            text(btf.parameters("g").unwrap_err()),
            "this kernel has no function g"
        );
    }

    #[test]
    fn malformed_bytes_are_errors() {
        let whole = btf(&sample());
        for end in 0..whole.len() - STRINGS.len() {
            assert!(Btf::parse(whole[..end].to_vec()).is_err(), "cut at {end}");
        }
        for (what, types) in [
            ("unknown kind", vec![0, info(31, 0), 0]),
            ("members beyond the end", vec![1, info(4, 9), 4, 0, 0, 0]),
            ("trailing word", vec![15, info(1, 0), 4, 32, 0]),
        ] {
            assert!(Btf::parse(btf(&types)).is_err(), "{what}");
        }
        let mut magic = whole;
        magic[0] = 0;
        assert!(Btf::parse(magic).is_err());
    }

    #[test]
    fn loops_end() {
        // An anonymous member that is its own structure; a typedef of itself; a member of no type.
        for types in [
            vec![1, info(4, 1), 8, 0, 1, 0],
            vec![1, info(4, 1), 8, 0, 2, 0, 0, info(8, 0), 2],
            vec![1, info(4, 1), 8, 0, 99, 0],
        ] {
            let btf = Btf::parse(btf(&types)).unwrap();
            assert!(btf.field("outer", "a").is_err());
        }
    }

    #[test]
    fn any_byte_may_be_wrong() {
        let whole = btf(&sample());
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut data = whole.clone();
                data[at] = byte;
                if let Ok(btf) = Btf::parse(data) {
                    let _ = btf.field("outer", "inner");
                    let _ = btf.enumerator("outer", "a");
                    let _ = btf.parameters("f");
                }
            }
        }
    }

    #[test]
    fn the_running_kernel_is_read() {
        let btf = Btf::from_kernel().expect("tests run on a kernel with BTF");
        let dport = btf.field("sock_common", "skc_dport").unwrap();
        assert_eq!(dport.size, 2);
        assert_eq!(
            btf.field("sock_common", "skc_num").unwrap().offset,
            dport.offset + 2
        );
        assert_eq!(btf.field("net", "ns.inum").unwrap().size, 4);
        assert!(
            btf.parameters("tcp_recvmsg")
                .unwrap()
                .contains(&"flags".to_owned())
        );
        assert!(btf.enumerator("iter_type", "ITER_IOVEC").is_ok());
    }
}
