//! Keys as frameworks make them, and what must hold for any key.

use proptest::prelude::*;

use super::{MAX_BYTES, MAX_SEGMENTS, pattern, pattern_into};

#[test]
fn keys_of_the_world() {
    for (key, expected) in [
        // Plain.
        ("user:42:profile", "user:*:profile"),
        ("user:43:profile", "user:*:profile"),
        ("user:42", "user:*"),
        ("config", "config"),
        ("app.settings.theme", "app.settings.theme"),
        ("feature_flags", "feature_flags"),
        ("42", "*"),
        ("", ""),
        ("user42", "user*"),
        ("user42profile", "user*profile"),
        ("page2", "page*"),
        ("cart|1234|items", "cart|*|items"),
        ("order-1001-lines", "order-*-lines"),
        ("geo:48.85:2.35", "geo:*.*:*.*"),
        ("balance:-42", "balance:-*"),
        ("{user:42}:cart", "{user:*}:cart"),
        ("{user1000}.following", "{user*}.following"),
        ("api/v2/users/42", "api/v2/users/*"),
        ("api:v1:orders", "api:v1:orders"),
        ("V10_schema", "V10_schema"),
        ("release:v1.2.3", "release:v1.*.*"),
        ("rate:1h:42", "rate:*h:*"),
        ("top:30d", "top:*d"),
        ("lock:getUserById:7", "lock:getUserById:*"),
        ("checksum:sha256:files", "checksum:sha256:files"),
        ("i18n:de:home", "i18n:de:home"),
        // UUIDs and hashes.
        ("session:550e8400-e29b-41d4-a716-446655440000", "session:*"),
        ("job:550E8400-E29B-41D4-A716-446655440000:log", "job:*:log"),
        ("blob:d41d8cd98f00b204e9800998ecf8427e", "blob:*"),
        (
            "sha:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha:*",
        ),
        ("mongo:507f1f77bcf86cd799439011", "mongo:*"),
        ("commit:a1b2c3d", "commit:*"),
        ("etag:7a1156131a69", "etag:*"),
        ("deadbeef", "deadbeef"),
        // Ids.
        ("nano:V1StGXR8_Z5jdHi6B-myT", "nano:*"),
        ("ulid:01ARZ3NDEKTSV4RRFFQ69G5FAV", "ulid:*"),
        ("cuid:cjld2cjxh0000qzrmn831i7rn", "cuid:*"),
        ("ksuid:0ujtsYcgvSTl8PAuAdqWYSMNLOv", "ksuid:*"),
        ("video:dQw4w9WgXcQ", "video:*"),
        ("stripe:cus_NffrFeUfNV2Hib", "stripe:cus_*"),
        ("data:Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA==", "data:*"),
        ("data:aGVsbG8gd29ybGQx+zE2NDU/MjM0NTY=", "data:*"),
        (
            "jwt:eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
            "jwt:*.*.*",
        ),
        // Dates and times.
        ("stats:2024-01-15", "stats:*"),
        ("stats:2024/01/15:visits", "stats:*:visits"),
        ("stats:20240115", "stats:*"),
        ("log:2024-01-15T10:30:00Z", "log:*"),
        ("log:2024-01-15T10:30:00.123+02:00:web", "log:*:web"),
        ("log:2024-01-15 10:30:00", "log:*"),
        ("log:20240115T103000Z", "log:*"),
        ("ts:1700000000.123", "ts:*.*"),
        // Addresses.
        ("throttle:192.168.1.17", "throttle:*"),
        ("throttle:10.0.0.1:login", "throttle:*:login"),
        ("throttle:2001:db8::8a2e:370:7334", "throttle:*"),
        (
            "throttle:2001:0db8:85a3:0000:0000:8a2e:0370:7334",
            "throttle:*",
        ),
        ("device:aa:bb:cc:0d:ee:ff", "device:*"),
        ("login:alice@example.com", "login:*"),
        (
            "login:bob.smith+tag@mail.example.co.uk:attempts",
            "login:*:attempts",
        ),
        // Laravel.
        ("laravel_cache:users.42", "laravel_cache:users.*"),
        (
            "laravel_database_laravel_cache_:5c1d1a7fcb8e4c3c9fe1c2b4bfc1f0d2",
            "laravel_database_laravel_cache_:*",
        ),
        ("laravel:tag:posts:key", "laravel:tag:posts:key"),
        ("queues:default:delayed", "queues:default:delayed"),
        (
            "laravel_session:Hq3vZ8Lk2PpX7sYt1NcWb5RmGd9JfTe4KuVa6QoE",
            "laravel_session:*",
        ),
        (
            "laravel_cache:illuminate:queue:restart",
            "laravel_cache:illuminate:queue:restart",
        ),
        ("App\\\\Models\\\\User:42", "App\\\\Models\\\\User:*"),
        (
            "horizon:job:9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            "horizon:job:*",
        ),
        // Rails and Sidekiq.
        (
            "views/products/index:7a1156131a6928cb0026877f8b749ac9/posts/1",
            "views/products/index:*/posts/*",
        ),
        ("products/42-20240115103000000000", "products/*-*"),
        (
            "_session_id:2::d41d8cd98f00b204e9800998ecf8427e0a",
            "_session_id:*::*",
        ),
        (
            "rack::attack:28333:req/ip:1.2.3.4",
            "rack::attack:*:req/ip:*",
        ),
        ("queue:mailers", "queue:mailers"),
        ("stat:processed:2024-01-15", "stat:processed:*"),
        ("web-1:4711:f3a9c1b2d4e5:work", "web-*:*:*:work"),
        (
            "unique:jobs:b6d81b360a5672d80c27430f39153e2c",
            "unique:jobs:*",
        ),
        // Django and Celery.
        (
            ":1:views.decorators.cache.cache_page",
            ":*:views.decorators.cache.cache_page",
        ),
        (
            ":1:django.contrib.sessions.cache8x2k1m4n7q9w3e5r6t0y",
            ":*:django.contrib.sessions.*",
        ),
        (
            "celery-task-meta-3f2b8c1e-9a4d-4c7b-8e6f-1a2b3c4d5e6f",
            "celery-task-meta-*",
        ),
        ("_kombu.binding.celery", "_kombu.binding.celery"),
        ("unacked_mutex", "unacked_mutex"),
        // Bull, Node.
        ("bull:email:1234", "bull:email:*"),
        ("bull:email:stalled-check", "bull:email:stalled-check"),
        ("bull:{payments}:77:lock", "bull:{payments}:*:lock"),
        ("sess:s%3AabC1dEf2GhI3jKl4", "sess:s%3A*"),
        ("rl:middleware:203.0.113.9", "rl:middleware:*"),
        // Spring, Java.
        (
            "spring:session:sessions:33fdd1b6-b496-4b33-9f7d-df96679d32fe",
            "spring:session:sessions:*",
        ),
        (
            "spring:session:expirations:1439245080000",
            "spring:session:expirations:*",
        ),
        ("users::42", "users::*"),
        ("feed::12", "feed::*"),
        ("\\xac\\xed\\x00\\x05t\\x00\\x07user:42", "*user:*"),
        // Others.
        ("wp_cache:options:alloptions", "wp_cache:options:alloptions"),
        ("magento:zc:k:69d_CONFIG", "magento:zc:k:*d_CONFIG"),
        (
            "PHPREDIS_SESSION:8m2qk1v0r3s5t7u9w1x3y5z7a9",
            "PHPREDIS_SESSION:*",
        ),
        (
            "gitlab:cache:project/278964/readme",
            "gitlab:cache:project/*/readme",
        ),
        ("user:*:profile", "user:*:profile"),
        // A term is no part of an address that has no other digits: in the pattern the rest may look like one.
        ("2d::a:a0000", "2d::a:a*"),
        ("2d:ab:cd:ef:ab:cd00000000", "2d:ab:cd:ef:ab:*"),
        ("2d:ab:cd:ef:ab:cd", "2d:ab:cd:ef:ab:cd"),
    ] {
        assert_eq!(pattern(key), expected, "{key}");
        assert_eq!(pattern(expected), expected, "again: {key}");
    }
}

#[test]
fn long_keys_are_cut() {
    let long = "part:".repeat(100);
    let cut = pattern(&long);
    assert_eq!(cut.matches("part").count(), MAX_SEGMENTS);
    assert!(cut.ends_with('…'));
    assert_eq!(pattern(&cut), cut);
    let address = pattern(&format!("{}a@-.a-a0.0.0.0", "0:".repeat(14)));
    assert!(address.ends_with("a@-.a-…"), "{address}");
    assert_eq!(pattern(&address), address);
    let separators = pattern(&"-".repeat(1000));
    assert_eq!(separators.len(), MAX_BYTES);
    assert_eq!(pattern(&separators), separators);
    assert_eq!(pattern(&"x".repeat(1000)), "*");
}

#[test]
fn appends() {
    let mut out = String::from("*");
    pattern_into("42:a", &mut out);
    assert_eq!(out, "**:a");
}

/// Keys made of what makes keys.
fn key() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-z]{1,9}",
        2 => "[0-9]{1,12}",
        2 => "[A-Za-z0-9]{1,24}",
        1 => "[A-Za-z0-9_-]{16,40}",
        1 => "[0-9a-f]{1,40}",
        1 => "[A-Z][a-z]{1,6}[A-Z][a-z]{1,6}[0-9]{0,3}",
        1 => "[A-Za-z0-9+/]{8,30}={0,2}",
        1 => "[0-9]{4}-[01][0-9]-[0-3][0-9](T[0-9]{2}:[0-9]{2}Z)?",
        1 => "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        1 => "[0-9a-f]{1,4}(:{1,2}[0-9a-f]{1,4}){2,7}",
        1 => "[0-9]{1,3}([.][0-9]{1,3}){3}",
        1 => "[a-z0-9.%+_-]{1,8}@[a-z0-9.-]{1,8}",
        1 => "v[0-9]{1,4}",
        1 => Just("sha256".to_owned()),
    ];
    let between = prop_oneof![
        8 => "[:/._|=,;{}@%&*+ -]{1,2}",
        1 => "\\\\x[0-9a-f]{2}",
        1 => Just("\\\\\\\\".to_owned()),
        1 => Just(String::new()),
        1 => Just("é…".to_owned()),
    ];
    proptest::collection::vec((part, between), 0..24)
        .prop_map(|parts| parts.into_iter().map(|(a, b)| a + &b).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_pattern_of_a_pattern_is_itself(key in prop_oneof![3 => key(), 1 => "\\PC{0,200}", 1 => "[ -~]{0,200}"]) {
        let once = pattern(&key);
        prop_assert!(once.len() <= MAX_BYTES);
        prop_assert!(!once.contains("**"));
        prop_assert_eq!(pattern(&once), once);
    }

    #[test]
    fn no_number_survives(key in key()) {
        // Percent encoding and escaped backslashes are no tokens.
        let pattern = pattern(&key.replace(['%', '\\'], ":"));
        let number = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
        let mut tokens = pattern.split(|c: char| !c.is_ascii_alphanumeric());
        prop_assert!(!tokens.any(number), "{}", pattern);
    }

    #[test]
    fn numbers_do_not_matter(name in "[a-z]{2,9}", a in any::<u32>(), b in any::<u64>(), tail in "[a-z]{1,9}") {
        let key = |n: u64| pattern(&format!("{name}:{n}:{tail}"));
        prop_assert_eq!(key(a.into()), key(b));
        prop_assert_eq!(key(b), format!("{name}:*:{tail}"));
    }
}
