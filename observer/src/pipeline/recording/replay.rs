//! `replay` of recordings: the same events through the same stages.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::super::{Pipeline, Watched, count};
use super::keys;
use super::names::stricter;
use crate::config::Config;
use crate::enrichment::{Enricher, Places};
use crate::protocol::Protocol;
use crate::source::event::{Clock, Nanos};
use crate::source::recording::{About, Fault, Frame, Losses, Origin, Reader};
use crate::source::replay::ReplayError;
use crate::stream::reassembly::Limits;
use crate::telemetry::{Lost, Telemetry};

/// A recording that was opened.
pub(in super::super) type Recording = Reader<BufReader<File>>;

/// Opens a file, if it is a recording.
///
/// # Errors
/// When it is one that cannot be read. A file that cannot be opened is none: whoever reads it next says why.
pub(in super::super) fn open(path: &Path) -> Result<Option<Recording>, ReplayError> {
    let Ok(file) = File::open(path) else {
        return Ok(None);
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        // Nothing may be taken from a pipe, which cannot be read again.
        return Ok(None);
    }
    Reader::new(BufReader::with_capacity(1 << 20, file))
        .map_err(|(offset, reason)| fault(path, offset, reason))
}

fn fault(path: &Path, offset: u64, reason: Fault) -> ReplayError {
    ReplayError::Recording {
        path: path.to_owned(),
        offset,
        reason,
    }
}

/// Sends a recording through the stages. Answers when it ended, too.
pub(in super::super) fn replay(
    path: &Path,
    mut recording: Recording,
    config: &Config,
    pipeline: &mut Pipeline,
    telemetry: &Telemetry,
) -> (Nanos, Result<(), ReplayError>) {
    begin(recording.about(), config, pipeline);
    let mut older: Option<Vec<_>> = None;
    let mut losses = Losses::default();
    let mut end = 0;
    loop {
        let frame = match recording.frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(reason) => {
                return (end, Err(fault(path, recording.offset(), reason)));
            }
        };
        if !matches!(frame, Frame::Older(_))
            && let Some(found) = older.take()
        {
            pipeline.adopt(&found);
        }
        match frame {
            Frame::Event(event) => {
                end = end.max(event.time);
                count(&event, telemetry);
                pipeline.event(&event);
            }
            Frame::Tick(now) => {
                end = end.max(now);
                pipeline.tick(now);
            }
            Frame::Clock(offset) => pipeline.set_clock(Clock { offset }),
            Frame::Process(process) => pipeline.told(process),
            Frame::Server(server) => pipeline.told_server(server),
            Frame::Socket(name, memcached) => {
                let protocol = match memcached {
                    true => Protocol::Memcached,
                    false => Protocol::Redis,
                };
                pipeline.watch_socket(name, protocol);
            }
            Frame::Older(found) => older.get_or_insert_default().extend(found),
            Frame::Losses(now) => {
                for (reason, before, now) in [
                    (Lost::RingFull, losses.ring_full, now.ring_full),
                    (Lost::Recursion, losses.recursion, now.recursion),
                    (Lost::Record, losses.record, now.record),
                ] {
                    telemetry.lost(reason).add(now.saturating_sub(before));
                }
                losses = now;
            }
            Frame::End(ended) => end = ended.time,
        }
    }
    (end, Ok(()))
}

/// Makes the stages ready for it: what was watched, how its positions are, and whose processes these were, it says itself.
fn begin(about: &About, config: &Config, pipeline: &mut Pipeline) {
    let mut config = config.clone();
    // What it does not show cannot be shown; a stand-in for a key is none.
    let shown = keys(&about.keys).unwrap_or_default();
    config.export.keys = stricter(config.export.keys, shown);
    for rule in &mut config.tables.rules {
        rule.keys = rule.keys.map(|keys| stricter(keys, shown));
    }
    let limits = match about.source {
        Origin::Live => Limits::LIVE,
        Origin::Capture => Limits::CAPTURE,
    };
    let watched = Watched::ports(&about.redis_ports, &about.memcached_ports);
    pipeline.begin(
        watched,
        config.rules(),
        limits,
        Enricher::new(Places::nowhere()),
    );
    if about.source == Origin::Live {
        pipeline.expect_older();
    }
}
