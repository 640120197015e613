//! What a request says of its client, and points in time.

use super::super::super::message::*;
use super::requests::*;

fn said(line: &str) -> Option<Client> {
    let detail = request(&words(line)).detail.expect("it was asked for");
    detail.client.map(|client| *client)
}

#[test]
fn clients_say_who_they_are_and_never_their_password() {
    let some = |text: &str| Some(text.to_owned());
    for (line, user, name, library, library_version) in [
        ("AUTH secret", some("default"), None, None, None),
        ("AUTH alice secret", some("alice"), None, None, None),
        (
            "HELLO 3 AUTH alice secret SETNAME web",
            some("alice"),
            some("web"),
            None,
            None,
        ),
        (
            "hello 2 setname web auth alice secret",
            some("alice"),
            some("web"),
            None,
            None,
        ),
        ("CLIENT SETNAME web", None, some("web"), None, None),
        (
            "CLIENT SETINFO LIB-NAME redis-py",
            None,
            None,
            some("redis-py"),
            None,
        ),
        (
            "client setinfo lib-ver 8.1.0",
            None,
            None,
            None,
            some("8.1.0"),
        ),
        // Not known whole: what was known before holds no longer.
        (
            &format!("AUTH {} secret", "a".repeat(600)),
            some(""),
            None,
            None,
            None,
        ),
    ] {
        let client = Client {
            user,
            name,
            library,
            library_version,
        };
        assert_eq!(said(line), Some(client.clone()), "{line}");
        assert!(!format!("{client:?}").contains("secret"));
    }
    for line in [
        "HELLO 3",
        "HELLO 3 secret AUTH alice",
        "CLIENT SETINFO secret x",
        "CLIENT LIST",
        "GET k",
    ] {
        assert_eq!(said(line), None, "{line}");
    }
}

#[test]
fn points_in_time() {
    let ttl = |line: &str| request(&words(line)).ttl;
    for (line, expiry) in [
        ("SET k v PXAT 1795800000500", Expiry::At(1_795_800_000_500)),
        ("SET k v EXAT 1795800000", Expiry::At(1_795_800_000_000)),
        ("GETEX k EXAT 1795800000", Expiry::At(1_795_800_000_000)),
        ("EXPIREAT k 1795800000 NX", Expiry::At(1_795_800_000_000)),
        ("PEXPIREAT k 1795800000500", Expiry::At(1_795_800_000_500)),
        ("RESTORE k 5000 v", Expiry::After(5)),
        (
            "RESTORE k 1795800000500 v ABSTTL",
            Expiry::At(1_795_800_000_500),
        ),
    ] {
        assert_eq!(ttl(line), Some(expiry), "{line}");
    }
    assert_eq!(ttl("RESTORE k 0 v"), None);

    let now = 1_795_799_990_000_000_000;
    assert_eq!(Expiry::At(1_795_800_000_000).seconds(now), 10);
    assert_eq!(Expiry::At(1_795_800_000_001).seconds(now), 11);
    assert_eq!(Expiry::At(0).seconds(now), -1_795_799_990);
    assert_eq!(Expiry::At(i64::MIN).seconds(u64::MAX), i64::MIN / 1000);
    assert_eq!(Expiry::After(60).seconds(now), 60);
}
