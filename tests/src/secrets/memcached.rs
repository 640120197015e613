//! Conversations with Memcached, in all its dialects, that hold the marker wherever a secret or a value can be.

use std::net::SocketAddrV4;

use super::scene::{Damage, EVERY, Scene, server};
use super::{KEY, MARKER, fill};
use crate::capture::Side;

/// Text: values, ASCII authentication, errors. `§` is the marker, `¶` the marker in base64.
pub(super) const TEXT: &[(&str, &str)] = &[
    ("set visible:key 0 0 13\r\n§\r\n", "STORED\r\n"),
    ("set visible:key 0 0 13 noreply\r\n§\r\n", ""),
    ("add visible:key 0 60 13\r\n§\r\n", "NOT_STORED\r\n"),
    ("replace visible:key 0 -1 13\r\n§\r\n", "NOT_STORED\r\n"),
    ("cas visible:key 0 0 13 7\r\n§\r\n", "EXISTS\r\n"),
    ("append visible:key 0 0 13\r\n§\r\n", "SERVER_ERROR §\r\n"),
    ("prepend visible:key 0 0 13\r\n§\r\n", "§\r\n"),
    // Authentication: what is right, what is wrong, and what is neither.
    ("set auth 0 0 19\r\nalice §\r\n", "STORED\r\n"),
    (
        "set auth 0 0 19\r\nalice §\r\n",
        "CLIENT_ERROR authentication failure §\r\n",
    ),
    ("set auth 0 0 27\r\n§ §\r\n", "CLIENT_ERROR §\r\n"),
    (
        "set auth 0 0 20\r\nalice  §\r\n",
        "CLIENT_ERROR bad authentication token format\r\n",
    ),
    ("set auth 0 0 21\r\nalice § \n\r\n", "CLIENT_ERROR §\r\n"),
    ("set auth 0 0 13\r\n§\r\n", "CLIENT_ERROR §\r\n"),
    (
        "set auth 0 0 19\r\nalice §\r\nset auth 0 0 17\r\nbob §\r\nset visible:key 0 0 13\r\n§\r\n",
        "CLIENT_ERROR §\r\nSTORED\r\nSTORED\r\n",
    ),
    (
        "get visible:key\r\nset auth 0 0 19\r\nalice §\r\n",
        "CLIENT_ERROR unauthenticated\r\nSTORED\r\n",
    ),
    // Lengths that are wrong.
    (
        "set visible:key 0 0 5\r\n§\r\n",
        "CLIENT_ERROR bad data chunk\r\nERROR\r\n",
    ),
    (
        "set auth 0 0 12\r\nalice §\r\n",
        "CLIENT_ERROR bad data chunk\r\nERROR §\r\n",
    ),
    ("set auth 0 0 99\r\nalice §\r\n", "CLIENT_ERROR §\r\n"),
    ("set visible:key 0 0 §\r\n", "CLIENT_ERROR §\r\n"),
    (
        "set visible:key 0 § 13\r\n§\r\n",
        "CLIENT_ERROR §\r\nERROR\r\n",
    ),
    ("set visible:key § 0 13\r\n§\r\n", "CLIENT_ERROR §\r\n"),
    (
        "set visible:key 0 0 2000000000\r\n§\r\n",
        "SERVER_ERROR object too large for cache §\r\n",
    ),
    // Replies.
    (
        "get visible:key\r\n",
        "VALUE visible:key 0 13\r\n§\r\nEND\r\n",
    ),
    (
        "gets visible:key visible:2\r\n",
        "VALUE visible:key 0 13 7\r\n§\r\nVALUE visible:2 0 13 8\r\n§\r\nEND\r\n",
    ),
    (
        "gat 60 visible:key\r\n",
        "VALUE visible:key 0 13\r\n§\r\nSERVER_ERROR §\r\n",
    ),
    ("get visible:key\r\n", "SERVER_ERROR §\r\n"),
    ("get visible:key\r\n", "SERVER_ERROR out of memory §\r\n"),
    ("get visible:key\r\n", "ERROR: §\r\n"),
    ("get visible:key\r\n", "§ §\r\n"),
    ("get visible:key\r\n", "VALUE §\r\n"),
    (
        "get visible:key\r\n",
        "VALUE visible:key 0 5\r\n§\r\nEND\r\n",
    ),
    ("incr visible:key 1\r\n", "§\r\n"),
    ("incr visible:key §\r\n", "CLIENT_ERROR §\r\n"),
    ("touch visible:key §\r\n", "CLIENT_ERROR §\r\n"),
    ("delete visible:key §\r\n", "CLIENT_ERROR §\r\n"),
    // Administration, and what no table knows.
    ("stats §\r\n", "STAT § §\r\nEND\r\n"),
    ("stats detail §\r\n", "PREFIX § get 1\r\nEND\r\n"),
    ("stats cachedump 1 1\r\n", "ITEM § [13 b; 0 s]\r\nEND\r\n"),
    ("verbosity §\r\n", "OK\r\n"),
    ("version §\r\n", "VERSION §\r\n"),
    ("flush_all §\r\n", "CLIENT_ERROR §\r\n"),
    ("shutdown §\r\n", "ERROR: §\r\n"),
    ("lru_crawler metadump §\r\n", "key=§ exp=-1 la=1\nEND\r\n"),
    (
        "watch fetchers §\r\n",
        "OK\r\nts=1.1 gid=1 type=item_get key=§ status=found\r\n",
    ),
    ("nosuch § §\r\n", "ERROR\r\n"),
    ("NOSUCH visible §\r\n", "CLIENT_ERROR §\r\n"),
    ("§\r\n", "ERROR §\r\n"),
    ("auth alice §\r\n", "ERROR\r\n"),
    ("mx visible:key §\r\n", "ERROR\r\n"),
    ("GET /§ HTTP/1.1\r\nCookie: §\r\n\r\n", "ERROR\r\n"),
    // Meta.
    ("ms visible:key 13\r\n§\r\n", "HD\r\n"),
    (
        "ms visible:key 13 T60 F5 I MA O§ k\r\n§\r\n",
        "HD O§ kvisible:key\r\n",
    ),
    ("ms visible:key 13 q\r\n§\r\nmn\r\n", "NS O§\r\nMN\r\n"),
    ("ms visible:key § O§\r\n", "CLIENT_ERROR §\r\n"),
    ("ms visible:key S13\r\n§\r\n", "CLIENT_ERROR §\r\nERROR\r\n"),
    ("ms visible:key 5\r\n§\r\n", "CLIENT_ERROR §\r\nERROR §\r\n"),
    ("ms visible:key 19\r\nalice §\r\n", "EX\r\n"),
    (
        "ms dmlzaWJsZTprZXk= 13 b k O¶\r\n§\r\n",
        "HD O¶ kdmlzaWJsZTprZXk= b\r\n",
    ),
    ("mg visible:key v\r\n", "VA 13\r\n§\r\n"),
    ("mg visible:key v\r\n", "VA 13 s13 t60 O§ k§\r\n§\r\n"),
    ("mg visible:key v\r\n", "VA 5\r\n§\r\n"),
    ("mg visible:key v\r\n", "VA §\r\n§\r\n"),
    ("mg visible:key s t f\r\n", "HD s§ t§ f§ W X Z\r\n"),
    ("mg visible:key v O§ k\r\n", "EN\r\n"),
    ("mg visible:key v q O§ N§ R§ T§\r\nmn §\r\n", "MN §\r\n"),
    (
        "mg dmlzaWJsZTprZXk= b k v O¶\r\n",
        "VA 13 b kdmlzaWJsZTprZXk= O¶\r\n§\r\n",
    ),
    ("mg visible:key § ¶ -§ 0§\r\n", "CLIENT_ERROR §\r\n"),
    ("md visible:key q C§ O§\r\nmn\r\n", "EX O§\r\nMN\r\n"),
    ("ma visible:key D§ J§ N§ M§ T§\r\n", "VA 13\r\n§\r\n"),
    ("ma visible:key MI v\r\n", "NF O§\r\n"),
    ("me visible:key §\r\n", "ME § exp=§ la=1 cas=§ fetch=no\r\n"),
    ("me visible:key\r\n", "ME visible:key §=1 cls=§\r\n"),
    ("me visible:key\r\n", "SERVER_ERROR §\r\n"),
];

/// The marker stands for the key of an authentication, which is nobody's: only a whole one is known for what it is.
const NAMELESS: &[&str] = &[
    "set § 0 0 19\r\nalice §\r\n",
    "set § 0 0 19 noreply\r\nalice §\r\n",
    "set § 0 60 27\r\n§ §\r\n",
];

/// Damages that leave it whole, or leave nothing of it.
const WHOLE_OR_NOTHING: &[Damage] = &[Damage::Cut, Damage::Ended, Damage::Reset, Damage::Joined];

/// With its base64 in its places, too.
pub(super) fn filled(text: &str) -> Vec<u8> {
    fill(&text.replace('¶', "UzNDUjNULW1hcmtlcg=="), MARKER)
}

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const INCREMENT: u8 = 0x05;
const FLUSH: u8 = 0x08;
const NOOP: u8 = 0x0a;
const VERSION: u8 = 0x0b;
const GETK: u8 = 0x0c;
const GETKQ: u8 = 0x0d;
const APPEND: u8 = 0x0e;
const PREPEND: u8 = 0x0f;
const STAT: u8 = 0x10;
const SETQ: u8 = 0x11;
const VERBOSITY: u8 = 0x1b;
const TOUCH: u8 = 0x1c;
const GAT: u8 = 0x1d;
/// Asks which mechanisms there are.
pub const SASL_LIST_MECHS: u8 = 0x20;
/// Begins an authentication.
pub const SASL_AUTH: u8 = 0x21;
/// Goes on with one.
pub const SASL_STEP: u8 = 0x22;

/// A message whose header may lie about the lengths of extras and key, and of all: by so many bytes.
fn message(start: [u8; 2], status: u16, parts: [&[u8]; 3], lies: [i32; 3]) -> Vec<u8> {
    let [extras, key, value] = parts;
    let body = (extras.len() + key.len() + value.len()) as i32 + lies[2];
    let mut bytes = start.to_vec();
    bytes.extend(((key.len() as i32 + lies[1]) as u16).to_be_bytes());
    bytes.extend([(extras.len() as i32 + lies[0]) as u8, 0]);
    bytes.extend(status.to_be_bytes());
    bytes.extend(body.to_be_bytes());
    bytes.extend([0; 12]);
    [&bytes, extras, key, value].concat()
}

/// A request in the binary dialect.
#[must_use]
pub fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    message([0x80, opcode], 0, [extras, key, value], [0; 3])
}

fn reply(opcode: u8, status: u16, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    message([0x81, opcode], status, [extras, key, value], [0; 3])
}

/// Binary: requests and replies.
pub(super) fn binary() -> Vec<(Vec<u8>, Vec<u8>)> {
    let (key, marker) = (KEY.as_bytes(), MARKER.as_bytes());
    let plain = filled("\0user\0§");
    let refused = |opcode, status| reply(opcode, status, &[], &[], &filled("Auth failure. §"));
    let get = request(GET, &[], key, &[]);
    let mut all = Vec::new();
    // SASL: right, wrong, to be continued, unknown.
    let words: [(&[u8], Vec<u8>); 6] = [
        (b"PLAIN", plain.clone()),
        (b"PLAIN", filled("user\0user\0§")),
        (b"CRAM-MD5", filled("user §")),
        (b"SCRAM-SHA-256", filled("n,,n=user,r=§,p=¶")),
        (marker, marker.to_vec()),
        (b"", plain.clone()),
    ];
    for (mechanism, secret) in &words {
        for (opcode, status) in [(SASL_AUTH, 0x20), (SASL_AUTH, 0x21), (SASL_STEP, 0)] {
            let asked = request(opcode, &[], mechanism, secret);
            all.push((asked, refused(opcode, status)));
        }
    }
    let mechanisms = request(SASL_LIST_MECHS, &[], marker, marker);
    all.push((mechanisms, reply(SASL_LIST_MECHS, 0, &[], &[], marker)));
    // Lengths that are wrong: of the extras, the key, the whole.
    for lies in [
        [0, 11, 0],
        [0, 24, 0],
        [0, 300, 0],
        [4, 0, 0],
        [0, -4, 0],
        [0, 0, 7],
        [0, 0, -7],
        [0, 0, -20],
        [0, 0, i32::MAX - 40],
    ] {
        let asked = message([0x80, SASL_AUTH], 0, [&[], b"PLAIN", &plain], lies);
        all.push((asked, refused(SASL_AUTH, 0x04)));
        let answer = message([0x81, GET], 0, [&[0; 4], &[], marker], lies);
        all.push((get.clone(), answer));
    }
    let sasl = request(SASL_AUTH, marker, b"PLAIN", &plain);
    all.push((sasl, refused(SASL_AUTH, 0x04)));
    // Values, loud and quiet.
    for opcode in [SET, 0x02, 0x03, SETQ, 0x12, 0x13] {
        let asked = request(opcode, &[0; 8], key, marker);
        all.push((asked, reply(opcode, 0x05, &[], &[], marker)));
    }
    for opcode in [APPEND, PREPEND, 0x19, 0x1a] {
        let asked = request(opcode, &[], key, marker);
        let asked = [asked, request(NOOP, &[], &[], &[])].concat();
        all.push((asked, reply(NOOP, 0, &[], &[], marker)));
    }
    let count = [marker, marker].concat();
    let asked = request(INCREMENT, &count[..20], key, marker);
    all.push((asked, reply(INCREMENT, 0x06, &[], &[], marker)));
    for opcode in [NOOP, VERSION, FLUSH, VERBOSITY, STAT, 0x07, 0x3f, 0xa7] {
        let asked = request(opcode, marker, marker, marker);
        all.push((asked, reply(opcode, 0x81, marker, marker, marker)));
    }
    // Numbers that the reply repeats.
    let mut asked = request(TOUCH, &[0; 4], key, &[]);
    asked[12..24].copy_from_slice(&marker[..12]);
    let mut answer = reply(TOUCH, 0, &[], &[], &[]);
    answer[12..24].copy_from_slice(&marker[..12]);
    all.push((asked, answer));
    // Replies: values, statistics, errors.
    for opcode in [GET, GETK, GETKQ, GAT] {
        let extras: &[u8] = if opcode == GAT { &[0; 4] } else { &[] };
        let key_again: &[u8] = if matches!(opcode, GETK | GETKQ) {
            key
        } else {
            &[]
        };
        let asked = request(opcode, extras, key, &[]);
        let answer = reply(opcode, 0, &[0; 4], key_again, marker);
        all.push((asked.clone(), answer));
        all.push((asked, reply(opcode, 0x01, marker, marker, marker)));
    }
    let statistics = [
        reply(STAT, 0, &[], marker, marker),
        reply(STAT, 0, &[], b"pid", marker),
        reply(STAT, 0, &[], &[], &[]),
    ];
    all.push((request(STAT, &[], marker, &[]), statistics.concat()));
    for status in [0x03, 0x20, 0x21, 0x82, 0x85, 0x5333] {
        all.push((get.clone(), reply(GET, status, &[], &[], marker)));
    }
    // The other dialect, where this one was begun.
    all.push((get.clone(), filled("SERVER_ERROR §\r\n")));
    all.push((get, filled("VALUE visible:key 0 13\r\n§\r\nEND\r\n")));
    all
}

/// A harmless exchange in the text dialect, and in the binary one.
pub(super) fn harmless() -> [(Vec<u8>, Vec<u8>); 2] {
    let key = KEY.as_bytes();
    [
        (
            b"get visible:key\r\n".to_vec(),
            b"VALUE visible:key 0 5\r\nvalue\r\nEND\r\n".to_vec(),
        ),
        (
            request(GET, &[], key, &[]),
            reply(GET, 0, &[0; 4], &[], b"value"),
        ),
    ]
}

/// The second behind the first, which makes it known what the connection speaks.
fn behind(first: &(Vec<u8>, Vec<u8>), second: &(Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (
        [&first.0[..], &second.0].concat(),
        [&first.1[..], &second.1].concat(),
    )
}

/// All scenes: those that are damaged everywhere, and those that are played whole only. All of one server, whose port
/// alone means something.
pub(super) fn scenes() -> (Vec<Scene>, Vec<Scene>) {
    let server: SocketAddrV4 = server(0, 11211);
    let scene = |(request, reply): (Vec<u8>, Vec<u8>), damaged, damages, after: &(_, _)| Scene {
        server,
        request,
        reply,
        damaged,
        damages,
        from: 1,
        after: Clone::clone(after),
    };
    let [text, binary_after] = harmless();
    let mut damaged = Vec::new();
    let mut whole = Vec::new();
    let told = TEXT
        .iter()
        .map(|(request, reply)| ((filled(request), filled(reply)), &text))
        .chain(binary().into_iter().map(|pair| (pair, &binary_after)));
    for (pair, after) in told {
        for side in [Side::Client, Side::Server] {
            damaged.push(scene(pair.clone(), side, EVERY, after));
        }
        let later = scene(behind(after, &pair), Side::Client, EVERY, after);
        damaged.push(Scene {
            from: after.0.len() + 1,
            ..later
        });
    }
    for request in NAMELESS {
        for reply in ["STORED\r\n", "CLIENT_ERROR §\r\n"] {
            let pair = (filled(request), filled(reply));
            damaged.push(scene(pair, Side::Client, WHOLE_OR_NOTHING, &text));
        }
    }
    // Every opcode, with a value where it has none, too.
    let key = KEY.as_bytes();
    for opcode in 0..=u8::MAX {
        for status in [0, 0x20] {
            let asked = request(opcode, &[], key, MARKER.as_bytes());
            let answer = reply(opcode, status, &[], &[], MARKER.as_bytes());
            let pair = behind(&binary_after, &(asked, answer));
            whole.push(scene(pair, Side::Client, EVERY, &binary_after));
        }
    }
    (damaged, whole)
}
