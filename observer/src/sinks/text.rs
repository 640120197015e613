//! The worker that writes spans as text, and the output that it shares with the metrics worker.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Item;
use super::console::Console;
use super::jsonl;
use super::options::{Output, SinkError, SpanLimits};
use super::queue::{Drained, Queue};
use super::span::Span;
use crate::telemetry::{SpanOutcome, Telemetry};

/// How long text may wait for more: a reader does not notice it, and a busy host wakes the worker less often.
const GATHER: Duration = Duration::from_millis(20);
/// Without traffic for this long, the console says what is watched.
const QUIET: Duration = Duration::from_secs(5);
/// Text is written in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// Standard output or a file: whole lines, from several threads.
#[derive(Debug)]
pub(super) struct Writer {
    file: Mutex<State>,
    /// The reader is gone: nothing more is written.
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    file: File,
    /// An error was reported and nothing was written since.
    failing: bool,
    /// The last write ended within a line.
    partial: bool,
}

impl Writer {
    pub(super) fn open(output: &Output) -> Result<Self, SinkError> {
        let file = match output {
            // A duplicate, because the library's own handle writes line by line.
            Output::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Output::File(path) => File::create(path),
        };
        let file = file.map_err(|source| SinkError::Output {
            path: match output {
                Output::Stdout => "standard output".into(),
                Output::File(path) => path.clone(),
            },
            source,
        })?;
        Ok(Self {
            file: Mutex::new(State {
                file,
                failing: false,
                partial: false,
            }),
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn is_terminal(&self) -> bool {
        let state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        state.file.is_terminal()
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes whole lines; `false` when that failed. A failure is reported once, until a write succeeds again. A reader that
    /// went away is none: the output ends there.
    pub(super) fn write(&self, text: &[u8]) -> bool {
        if self.closed() {
            return false;
        }
        let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let mut written = 0;
        let mut result = Ok(());
        if state.partial {
            result = write_all(&mut state.file, b"\n", &mut 0);
        }
        if result.is_ok() {
            result = write_all(&mut state.file, text, &mut written);
            state.partial = written > 0 && text[written - 1] != b'\n';
        }
        match result {
            Ok(()) => {
                state.failing = false;
                true
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                false
            }
            Err(error) => {
                if !state.failing {
                    tracing::error!(%error, "cannot write the output: spans are lost and counted");
                }
                state.failing = true;
                false
            }
        }
    }
}

fn write_all(file: &mut File, mut text: &[u8], written: &mut usize) -> io::Result<()> {
    while !text.is_empty() {
        match file.write(text) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                text = &text[count..];
                *written += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A pipe that its other end made non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes the spans of a queue until it is closed.
#[derive(Debug)]
pub(super) struct TextWorker {
    pub(super) queue: Arc<Queue<Arc<Item>>>,
    pub(super) writer: Arc<Writer>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) console: Option<Console>,
    pub(super) jsonl: bool,
    pub(super) limits: SpanLimits,
    /// Said after some seconds without traffic.
    pub(super) idle: Option<String>,
}

impl TextWorker {
    pub(super) fn run(self) {
        let mut items = Vec::new();
        let mut quiet = false;
        loop {
            match self.queue.drain(&mut items, QUIET, GATHER) {
                Drained::Closed => return,
                Drained::Idle => {
                    if !quiet {
                        self.say_idle();
                    }
                    quiet = true;
                }
                Drained::Items => {
                    quiet = false;
                    self.write(&items);
                    items.clear();
                }
            }
        }
    }

    fn say_idle(&self) {
        if let (Some(console), Some(idle)) = (&self.console, &self.idle) {
            let mut line = String::new();
            console.remark(idle, &mut line);
            self.writer.write(line.as_bytes());
        }
    }

    fn write(&self, items: &[Arc<Item>]) {
        let mut rest = items;
        while !rest.is_empty() {
            let mut text = String::new();
            let mut json = Vec::new();
            let mut count = 0;
            let mut spans = 0;
            while count < rest.len() && text.len() + json.len() < PIECE {
                let item = &rest[count];
                if let Some(console) = &self.console {
                    console.observation(&item.observation, &mut text);
                }
                if self.jsonl {
                    for span in Span::of(&item.observation, item.ids, self.limits) {
                        jsonl::span(&span, &mut json);
                        spans += 1;
                    }
                } else {
                    spans +=
                        Span::count(&item.observation.exchange, &item.observation.export) as u64;
                }
                count += 1;
            }
            let mut bytes = text.into_bytes();
            bytes.append(&mut json);
            let outcome = match self.writer.write(&bytes) {
                true => SpanOutcome::Exported,
                false => SpanOutcome::Dropped,
            };
            self.telemetry.spans(outcome).add(spans);
            rest = &rest[count..];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn writer(file: File) -> Writer {
        Writer {
            file: Mutex::new(State {
                file,
                failing: false,
                partial: false,
            }),
            closed: AtomicBool::new(false),
        }
    }

    #[test]
    fn ends_when_the_reader_is_gone() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let writer = writer(File::from(OwnedFd::from(pipe)));
        assert!(writer.write(b"one\n"));
        let mut line = [0; 4];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"one\n");
        drop(reader);
        assert!(!writer.write(b"two\n"));
        assert!(writer.closed());
    }

    #[test]
    fn goes_on_after_a_full_disk() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let writer = writer(full);
        assert!(!writer.write(b"one\n"));
        assert!(!writer.closed());
        let (mut reader, pipe) = io::pipe().unwrap();
        writer.file.lock().unwrap().file = File::from(OwnedFd::from(pipe));
        writer.file.lock().unwrap().partial = true;
        assert!(writer.write(b"two\n"));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\ntwo\n", "a line that was cut short is ended first");
    }
}
