use proptest::prelude::*;

use super::fuzz::{payload, recording};
use super::*;
use crate::source::event::{Address, Data, Datagram, Direction, End, EventKind, Rest, Uncaptured};

fn about() -> About {
    About {
        observer: "0.1.0".to_owned(),
        source: Origin::Live,
        kernel: Some("6.1.0".to_owned()),
        backend: None,
        records: Some(3),
        redis_ports: vec![6379],
        memcached_ports: vec![11211],
        role: "auto".to_owned(),
        keys: "full".to_owned(),
    }
}

fn socket() -> SocketId {
    SocketId {
        sk: 7,
        netns: 8,
        local: "10.0.0.1:40000".parse().unwrap(),
        remote: "[fe80::1%3]:6379".parse().unwrap(),
    }
}

/// One frame of each kind.
fn frames() -> Vec<Frame<'static>> {
    let task = Task {
        pid: 1,
        tid: 2,
        cgroup: 3,
        comm: *b"client\0\0\0\0\0\0\0\0\0\0",
    };
    let name = SocketName::new("/run/cache.sock").unwrap();
    let event = |kind| {
        Frame::Event(Event {
            time: 5,
            socket: socket(),
            task: Some(task),
            kind,
        })
    };
    vec![
        Frame::Clock(-9),
        Frame::Process(Process {
            pid: 1,
            service: "shop".to_owned(),
            executable: Some("client".to_owned()),
            pod_uid: Some("8d8f1f23-5b1e-4d1c-9c5e-2f9b8a7c6d5e".to_owned()),
            ..Process::default()
        }),
        Frame::Server(ServerName {
            pid: 1,
            address: "10.0.0.7".parse().unwrap(),
            name: "redis-1".to_owned(),
        }),
        Frame::Older(vec![(socket(), task)]),
        Frame::Tick(4),
        event(EventKind::Connecting),
        event(EventKind::Established {
            end: End::Server,
            send_position: Some(1),
            receive_position: None,
        }),
        event(EventKind::Data(Data {
            direction: Direction::Receive,
            started: 4,
            position: u32::MAX,
            opposite: Some(3),
            length: 9,
            payload: b"+OK\r\n",
            uncaptured: Some(Uncaptured::Fault),
            continued: true,
            opening: true,
        })),
        event(EventKind::Datagram(Datagram {
            direction: Direction::Send,
            started: 4,
            offset: 2,
            total: 4,
            length: 2,
            payload: b"\0\0",
            uncaptured: None,
        })),
        event(EventKind::Closed {
            fault: Some(super::super::event::Fault::Aborted),
            rest: Some(Rest {
                sent: 1,
                taken: 2,
                unread: 3,
            }),
        }),
        Frame::Socket(name, true),
        Frame::Event(Event {
            time: 5,
            socket: SocketId {
                local: Address::Unix {
                    name: None,
                    client: 7,
                },
                remote: Address::Unix {
                    name: Some(name),
                    client: 7,
                },
                ..socket()
            },
            task: None,
            kind: EventKind::Closed {
                fault: None,
                rest: None,
            },
        }),
        Frame::Losses(Losses {
            ring_full: 1,
            recursion: 2,
            record: 3,
        }),
        Frame::End(Ended {
            time: 6,
            events: 5,
            undecided: 4,
        }),
    ]
}

fn written() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &about()).unwrap();
    for frame in frames() {
        let mut body = Vec::new();
        head(&frame, &mut body);
        if let Frame::Event(event) = &frame
            && matches!(event.kind, EventKind::Data(_) | EventKind::Datagram(_))
        {
            payload(event).encode(&mut body);
        }
        writer.body(&body).unwrap();
    }
    assert_eq!(writer.written(), bytes.len() as u64);
    bytes
}

/// What comes of a file: how many frames, and why no more.
fn read(bytes: &[u8]) -> (usize, u64, Option<Fault>) {
    let mut reader = match Reader::new(bytes) {
        Ok(Some(reader)) => reader,
        Ok(None) => return (0, 0, Some(Fault::Field("no recording"))),
        Err((offset, fault)) => return (0, offset, Some(fault)),
    };
    let mut count = 0;
    loop {
        match reader.frame() {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, 0, None),
            Err(fault) => return (count, reader.offset(), Some(fault)),
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let bytes = written();
    let mut reader = Reader::new(&*bytes).unwrap().unwrap();
    assert_eq!(*reader.about(), about());
    for frame in frames() {
        assert_eq!(reader.frame().unwrap(), Some(frame));
    }
    assert!(reader.frame().unwrap().is_none());
}

#[test]
fn what_is_not_shown_is_zero() {
    let mut payload = Payload {
        length: 12,
        runs: Vec::new(),
    };
    payload.push(2, b"ab");
    payload.push(4, b"c");
    payload.push(8, b"d");
    assert_eq!(payload.runs.len(), 2);
    let Frame::Event(event) = &frames()[7] else {
        panic!("an event");
    };
    let EventKind::Data(data) = event.kind else {
        panic!("of data");
    };
    let event = Event {
        kind: EventKind::Data(Data {
            length: 12,
            payload: &[],
            uncaptured: None,
            ..data
        }),
        ..*event
    };
    let mut body = Vec::new();
    head(&Frame::Event(event), &mut body);
    payload.encode(&mut body);
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &about()).unwrap();
    writer.body(&body).unwrap();
    let mut reader = Reader::new(&*bytes).unwrap().unwrap();
    let Some(Frame::Event(read)) = reader.frame().unwrap() else {
        panic!("an event");
    };
    assert_eq!(read.kind.payload(), b"\0\0abc\0\0\0d\0\0\0");
}

#[test]
fn it_is_readable_up_to_the_last_whole_frame() {
    let bytes = written();
    let mut last = 0;
    for end in 12..bytes.len() {
        let (count, offset, fault) = read(&bytes[..end]);
        assert!(matches!(fault, Some(Fault::CutOff)), "{end}: {fault:?}");
        assert!(count >= last && offset <= end as u64);
        last = count;
    }
    assert_eq!(last, frames().len() - 1);
    assert!(read(&bytes).2.is_none());
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(matches!(read(&longer).2, Some(Fault::Field(_))));
}

#[test]
fn no_changed_byte_is_overlooked() {
    let bytes = written();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged).2.is_some(), "{at} {bit}");
            recording(&damaged);
        }
    }
}

/// With a checksum that is right.
fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &about()).unwrap();
    for body in bodies {
        writer.body(body).unwrap();
    }
    bytes
}

proptest! {
    #[test]
    fn anything_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        recording(&bytes);
        recording(&[&written()[..12], &bytes].concat());
    }

    #[test]
    fn frames_may_hold_anything(
        kind in 0_u8..13,
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        recording(&framed(&[[&[kind][..], &bytes].concat()]));
    }

    #[test]
    fn frames_may_be_changed(which in 0_usize..11, at in any::<usize>(), to in any::<u8>()) {
        let mut body = Vec::new();
        let frame = &frames()[which];
        head(frame, &mut body);
        if let Frame::Event(event) = frame {
            payload(event).encode(&mut body);
        }
        let at = at % body.len();
        body[at] = to;
        recording(&framed(&[body]));
    }
}
