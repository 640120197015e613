//! A marker that stands for every secret, conversations that hold it in every place, and the search for it.

mod datagrams;
pub mod memcached;
mod scene;
mod tables;

use std::path::Path;

use anyhow::Result;

use crate::capture::{Capture, Side};
use crate::client::encode;
use scene::{EVERY, Scene, server};
use tables::{GET, MALFORMED, REPLIES, TOGETHER};

pub use tables::REQUESTS;

/// The secret.
pub const MARKER: &str = "S3CR3T-marker";
/// So many bytes of it are a leak already.
const PIECE: usize = 6;
/// Keys are shown on purpose: this one proves that something was.
pub const KEY: &str = "visible:key";

/// Whether any piece of the marker is in a text, and where: in any letter case, escaped, as hexadecimal digits or in base64.
#[must_use]
pub fn leak(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let lower = text.to_ascii_lowercase();
    let plain = unescaped(&lower);
    let pieces = MARKER.as_bytes().windows(PIECE);
    for piece in pieces {
        let word = String::from_utf8_lossy(piece).to_ascii_lowercase();
        let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex_lower: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let found = [
            (&plain, word.as_str()),
            (&lower, &hex),
            (&lower, &hex_lower),
        ]
        .iter()
        .find_map(|(text, needle)| text.find(needle).map(|at| excerpt(text, at)));
        // Whole groups of base64: some piece of a whole marker stands at the start of one, whatever comes before it.
        let base64 = base64(piece);
        let found = found.or_else(|| text.find(&base64).map(|at| excerpt(&text, at)));
        if let Some(found) = found {
            return Some(format!("{word:?} in …{found}…"));
        }
    }
    None
}

/// What stands around a place.
#[must_use]
pub fn excerpt(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    text[start..end].chars().take(2_000).collect()
}

/// Resolves `%NN`, `\xNN` and `\u00NN`, so that escaping hides nothing.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['%', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let code = ["%", "\\x", "\\\\x", "\\u00", "\\\\u00"]
            .iter()
            .find_map(|prefix| {
                let digits = rest.strip_prefix(prefix)?.get(..2)?;
                Some((u8::from_str_radix(digits, 16).ok()?, prefix.len() + 2))
            });
        let (byte, length) = code.unwrap_or((rest.as_bytes()[0], 1));
        out.push(char::from(byte).to_ascii_lowercase());
        rest = &rest[length..];
    }
    out + rest
}

/// Whole groups only.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| -> String {
        let number = three
            .iter()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        [18, 12, 6, 0]
            .iter()
            .map(|shift| char::from(DIGITS[number >> shift & 63]))
            .collect()
    };
    bytes.chunks_exact(3).map(group).collect()
}

/// Puts the marker in its places.
fn fill(text: &str, marker: &str) -> Vec<u8> {
    text.replace('§', marker).into_bytes()
}

/// All scenes: those that are damaged everywhere, and those that are played whole only.
fn scenes() -> (Vec<Scene>, Vec<Scene>) {
    let upper = MARKER.to_ascii_uppercase();
    let refused = fill(
        "-ERR unknown command 'x', with args beginning with: '§' '§' \r\n",
        MARKER,
    );
    let after = (GET.as_bytes().to_vec(), b"$5\r\nvalue\r\n".to_vec());
    let mut damaged = Vec::new();
    let mut whole = Vec::new();
    let scene = |request: Vec<u8>, reply: Vec<u8>, damaged: Side| Scene {
        server: server(0, 6379),
        request,
        reply,
        damaged,
        damages: EVERY,
        from: 1,
        after: after.clone(),
    };
    let inline = |line: &str, marker: &str| {
        let line = line.replace("EMPTY", "\"\"");
        fill(&format!("{line}\r\n"), marker)
    };
    let array = |line: &str| {
        let words = line.split(' ').map(|word| match word {
            "EMPTY" => Vec::new(),
            word => fill(word, MARKER),
        });
        encode(&words.collect::<Vec<_>>())
    };
    let mixed = |line: &str| -> String {
        let letters = line.chars().enumerate();
        letters
            .map(|(at, letter)| match at % 2 {
                0 => letter.to_ascii_lowercase(),
                _ => letter,
            })
            .collect()
    };
    let escaped: String = MARKER
        .bytes()
        .map(|byte| format!("\\x{byte:02x}"))
        .collect();
    for request in REQUESTS {
        damaged.push(scene(array(request), refused.clone(), Side::Client));
        damaged.push(scene(
            inline(request, MARKER),
            b"+OK\r\n".to_vec(),
            Side::Client,
        ));
        for marker in [
            format!("\"{MARKER}\""),
            format!("'{MARKER}'"),
            format!("\"{escaped}\""),
        ] {
            whole.push(scene(
                inline(request, &marker),
                refused.clone(),
                Side::Client,
            ));
        }
        for request in [
            request.to_ascii_lowercase().replace("empty", "EMPTY"),
            mixed(request),
        ] {
            whole.push(scene(array(&request), b"+OK\r\n".to_vec(), Side::Client));
            whole.push(scene(
                inline(&request, &upper),
                refused.clone(),
                Side::Client,
            ));
        }
    }
    for commands in TOGETHER {
        let request: Vec<u8> = commands.iter().flat_map(|command| array(command)).collect();
        let reply = refused.repeat(commands.len());
        damaged.push(scene(request.clone(), reply, Side::Client));
        let executed = [
            b"+OK\r\n".to_vec(),
            b"+QUEUED\r\n".repeat(commands.len() - 2),
        ]
        .concat();
        let elements = format!("*{}\r\n", commands.len() - 2).into_bytes();
        let reply = [executed, elements, refused.repeat(commands.len() - 2)].concat();
        damaged.push(scene(request, reply, Side::Client));
    }
    for request in MALFORMED {
        let request = fill(request, MARKER);
        damaged.push(scene(request.clone(), refused.clone(), Side::Client));
        // After something that made sense.
        let request = [GET.as_bytes(), &request].concat();
        damaged.push(scene(request, b"$-1\r\n-ERR no\r\n".to_vec(), Side::Client));
    }
    for (request, reply) in REPLIES {
        let request = request.as_bytes().to_vec();
        damaged.push(scene(request.clone(), fill(reply, MARKER), Side::Server));
        whole.push(scene(request, fill(reply, &upper), Side::Server));
    }
    let (more_damaged, more_whole) = memcached::scenes();
    damaged.extend(more_damaged);
    whole.extend(more_whole);
    for (number, scene) in damaged.iter_mut().chain(&mut whole).enumerate() {
        scene.server = server(number, scene.server.port());
    }
    (damaged, whole)
}

/// Writes a capture of all scenes: whole, and with every damage at every place if `everywhere`.
///
/// # Errors
///
/// When the file cannot be written.
pub fn capture(file: &Path, everywhere: bool) -> Result<()> {
    let mut capture = Capture::create(file)?;
    let (damaged, whole) = scenes();
    for scene in damaged.iter().chain(&whole) {
        scene.whole(&mut capture)?;
    }
    if everywhere {
        for scene in &damaged {
            scene.damaged(&mut capture)?;
        }
    }
    datagrams::play(&mut capture, everywhere)?;
    capture.finish()
}
