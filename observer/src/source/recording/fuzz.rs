//! Recordings that mean no good.

use super::write::head;
use super::{Frame, Payload, Reader, Writer};
use crate::source::event::{Event, EventKind};

/// Reads any bytes as a recording. What can be read is written again, and then read as the same.
pub fn recording(bytes: &[u8]) {
    let Ok(Some(mut reader)) = Reader::new(bytes) else {
        return;
    };
    let mut again = Vec::new();
    let mut writer = Writer::new(&mut again, reader.about()).expect("memory takes all");
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = reader.frame() {
        let mut body = Vec::new();
        head(&frame, &mut body);
        if let Frame::Event(event) = &frame
            && let EventKind::Data(_) | EventKind::Datagram(_) = event.kind
        {
            payload(event).encode(&mut body);
        }
        // JSON may be longer than it was.
        if writer.body(&body).is_err() {
            break;
        }
        frames.push(format!("{frame:?}"));
    }
    let mut reader = Reader::new(&*again)
        .expect("it was written well")
        .expect("it is a recording");
    for frame in frames {
        let read = reader.frame().expect("it was written well");
        assert_eq!(format!("{:?}", read.expect("it was written")), frame);
    }
}

/// The payload of an event, whole.
pub(super) fn payload(event: &Event<'_>) -> Payload {
    let bytes = event.kind.payload();
    let mut payload = Payload {
        length: bytes.len() as u32,
        runs: Vec::new(),
    };
    if !bytes.is_empty() {
        payload.push(0, bytes);
    }
    payload
}
