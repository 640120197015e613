//! Recording: events are decoded as they come, only to find out which of their bytes may be kept, and written in their order once
//! that is decided.
//!
//! ```text
//! event ─┬─▶ Held: head, so many bytes ─────────────────▶ in order ─▶ Writer
//!        └─▶ Flows ─▶ Conversation ─▶ Masking ─▶ which bytes ─┘
//! ```
//!
//! What waits holds nothing of a payload but what was decided to be kept: the rest is a length.

mod datagrams;
mod held;
mod live;
mod names;
mod replay;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::config::Config;
use crate::config::export::Keys;
use crate::enrichment::{Enricher, Places};
use crate::protocol::Protocol;
use crate::protocol::mask::SharedNames;
use crate::source::event::{
    Address, Clock, Direction, End, Event, EventKind, Nanos, SocketId, SocketName, Task,
};
use crate::source::recording::{
    About, Ended, Frame, Losses, MAX_OLDER, Origin, Process, ServerName, Writer, head,
};
use crate::stream::flows::{Close, Flow, Flows, Handler, Options, Role};
use crate::stream::reassembly::Limits;
use crate::stream::{Content, Ports, Segment, Side};
use crate::telemetry::{Lost, Telemetry};
use crate::transaction::Ending;
use crate::transaction::conversation::{Conversation, Settings};
use crate::transaction::watch::Masking;
use datagrams::Datagrams;
use held::{Held, Lane};
use names::Shown;

pub use live::record;
pub(super) use replay::{open, replay};

use super::{TICK, Watched};

/// How long a frame waits at most, nanoseconds: a request that takes longer to arrive, or a boundary that takes longer to be
/// proven, is hidden.
const WAIT: Nanos = 5_000_000_000;

/// Most names of servers of which it is known that they were written.
const MAX_SERVERS: usize = 65_536;

/// After so many events it is looked for what will never be decided.
const PRUNE: u64 = 1 << 16;

/// Writes what it is given.
pub(super) struct Recorder {
    flows: Flows<Book>,
    book: Book,
    datagrams: Datagrams,
    enricher: Enricher,
    /// Service of each process that was written.
    processes: FxHashMap<u32, u32>,
    /// Names of servers that were written, by process.
    servers: FxHashMap<(u32, IpAddr), Arc<str>>,
    /// All ports.
    ports: Ports,
    telemetry: Arc<Telemetry>,
    writer: Writer<Box<dyn io::Write + Send>>,
    clock: Option<Clock>,
    losses: Losses,
    events: u64,
    ticked: Nanos,
    /// Why nothing more can be written.
    failed: Option<io::Error>,
}

/// Frames that wait, and what decides on them.
struct Book {
    held: Held,
    memcached: Ports,
    names: SharedNames,
    telemetry: Arc<Telemetry>,
}

/// What is kept of a connection.
struct Session {
    conversation: Conversation<Masking>,
    requests: Lane,
    replies: Lane,
}

/// What a recording says of its source.
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) kernel: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) records: Option<u8>,
}

impl Recorder {
    /// Begins a recording.
    pub(super) fn new(
        config: &Config,
        source: Source,
        places: Places,
        output: Box<dyn io::Write + Send>,
        telemetry: Arc<Telemetry>,
    ) -> io::Result<Self> {
        let shown = Shown::new(config);
        let about = About {
            observer: env!("CARGO_PKG_VERSION").to_owned(),
            source: source.origin,
            kernel: source.kernel,
            backend: source.backend,
            records: source.records,
            redis_ports: config.redis_ports.clone(),
            memcached_ports: config.memcached_ports.clone(),
            role: word(&config.role),
            keys: word(&shown.keys()),
        };
        let names: SharedNames = Arc::new(shown);
        let Watched { all, memcached } = Watched::new(config);
        let mut enricher = Enricher::new(places);
        enricher.rename(config.rules().service_names());
        let ports = all.clone();
        let (limits, wait) = match source.origin {
            Origin::Live => (Limits::LIVE, WAIT),
            // Its clock may stand still or leap.
            Origin::Capture => (Limits::CAPTURE, Nanos::MAX),
        };
        Ok(Self {
            flows: Flows::new(Options {
                // Each end that is there is decoded, so that each can be replayed.
                role: Role::Both,
                ports: all,
                limits,
                max_flows: config.tables.limits.connections,
                max_held: config.tables.limits.pending_bytes,
            }),
            datagrams: Datagrams::new(memcached.clone(), Arc::clone(&names)),
            book: Book {
                held: Held::new(wait),
                memcached,
                names,
                telemetry: Arc::clone(&telemetry),
            },
            enricher,
            processes: FxHashMap::default(),
            servers: FxHashMap::default(),
            ports,
            telemetry,
            writer: Writer::new(output, &about)?,
            clock: None,
            losses: Losses::default(),
            events: 0,
            ticked: 0,
            failed: None,
        })
    }

    /// Takes in one event.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        self.pass(event.time);
        self.process(event.task.as_ref(), &event.socket, event.time);
        self.events += 1;
        if self.events.is_multiple_of(PRUNE) {
            self.book.held.prune();
        }
        let mut body = Vec::with_capacity(160);
        head(&Frame::Event(*event), &mut body);
        let length = event.kind.payload().len() as u32;
        let held = &mut self.book.held;
        match &event.kind {
            EventKind::Data(data) => {
                let frame = held.push_payload(event.time, body, length);
                if length > 0 {
                    let key = (event.socket.sk, data.direction);
                    held.arrived(key, data.position, length, frame);
                }
                self.flows.event(event, &mut self.book, &self.telemetry);
            }
            EventKind::Datagram(datagram) => {
                let frame = held.push_payload(event.time, body, length);
                self.datagrams.event(event, datagram, frame, held);
            }
            _ => {
                held.push(event.time, body);
                self.flows.event(event, &mut self.book, &self.telemetry);
            }
        }
        self.write(event.time);
    }

    /// Time has passed without an event.
    pub(super) fn tick(&mut self, now: Nanos) {
        if self.pass(now) {
            self.frame(now, &Frame::Tick(now));
            self.write(now);
        }
    }

    /// Unix time has this relation to the source's from now on.
    pub(super) fn clock(&mut self, clock: Clock, now: Nanos) {
        if self.clock != Some(clock) {
            self.clock = Some(clock);
            self.frame(now, &Frame::Clock(clock.offset));
        }
    }

    /// This unix socket is watched, too, for Memcached or for Redis.
    pub(super) fn watch_socket(&mut self, name: SocketName, protocol: Protocol, now: Nanos) {
        let memcached = protocol == Protocol::Memcached;
        self.flows.watch_socket(name);
        if memcached {
            self.book.memcached.add(name);
        }
        self.frame(now, &Frame::Socket(name, memcached));
    }

    /// What was lost so far is in the telemetry.
    pub(super) fn losses(&mut self, now: Nanos) {
        let lost = |reason| self.telemetry.lost(reason).get();
        let losses = Losses {
            ring_full: lost(Lost::RingFull),
            recursion: lost(Lost::Recursion),
            record: lost(Lost::Record),
        };
        if self.losses != losses {
            self.losses = losses;
            self.frame(now, &Frame::Losses(losses));
        }
    }

    /// Connections from before the recording.
    pub(super) fn older(&mut self, found: &[(SocketId, Task)], now: Nanos) {
        for (socket, task) in found {
            self.process(Some(task), socket, now);
        }
        let mut chunks: Vec<_> = found.chunks(MAX_OLDER).collect();
        if chunks.is_empty() {
            // That there are none is worth knowing, too.
            chunks.push(&[]);
        }
        for chunk in chunks {
            self.frame(now, &Frame::Older(chunk.to_vec()));
        }
        self.write(now);
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.writer.flush().err();
        }
    }

    /// Why nothing more can be written.
    pub(super) fn failed(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// Ends the recording: how, and how many bytes it has.
    pub(super) fn finish(mut self, now: Nanos) -> Result<(Ended, u64), io::Error> {
        self.flows.finish(now, Close::Over, &mut self.book);
        self.losses(now);
        self.write(Nanos::MAX);
        // What nobody has decided on by now nobody will.
        self.book.held.give_up();
        self.write(Nanos::MAX);
        let ended = Ended {
            time: now,
            events: self.events,
            undecided: self.book.held.undecided(),
        };
        self.frame(now, &Frame::End(ended));
        self.write(Nanos::MAX);
        self.flush();
        match self.failed {
            None => Ok((ended, self.writer.written())),
            Some(error) => Err(error),
        }
    }

    /// Whether time has passed as far as the stages are concerned.
    fn pass(&mut self, now: Nanos) -> bool {
        let passed = now.saturating_sub(self.ticked) >= TICK;
        if passed {
            self.ticked = now;
            self.flows.tick(now, &mut self.book);
        }
        passed
    }

    fn process(&mut self, task: Option<&Task>, socket: &SocketId, now: Nanos) {
        let Some(task) = task.filter(|task| task.pid != 0) else {
            return;
        };
        let service = self.enricher.service(Some(task));
        if self.processes.insert(task.pid, service.id) != Some(service.id) {
            let pod = service.pod.as_ref();
            let process = Process {
                pid: task.pid,
                service: service.name.clone(),
                named: self.enricher.names_itself(task),
                executable: service.executable.clone(),
                container: service.container.clone(),
                host: service.host.clone(),
                pod_uid: pod.map(|pod| pod.uid.clone()),
                pod_qos: pod.and_then(|pod| Some(pod.qos?.name().to_owned())),
                pod_name: pod.and_then(|pod| pod.name.clone()),
                namespace: pod.and_then(|pod| pod.namespace.clone()),
                node: service.node.clone(),
                unit: service.unit.clone(),
            };
            self.frame(now, &Frame::Process(process));
        }
        self.server(task, service.id, socket.remote, now);
    }

    /// Tells what the process calls the server that it talks to.
    fn server(&mut self, task: &Task, service: u32, server: Address, now: Nanos) {
        // The other end of a server's connections is no server.
        let is_server = server.port().is_some_and(|port| self.ports.contains(port));
        let Some(address) = server.inet().map(|server| server.ip()) else {
            return;
        };
        if !is_server {
            return;
        }
        let Some(name) = self.enricher.server_name(Some(task), server) else {
            return;
        };
        if self.servers.len() >= MAX_SERVERS {
            self.servers.clear();
        }
        let key = (service, address);
        if self.servers.get(&key).is_none_or(|told| *told != name) {
            self.servers.insert(key, Arc::clone(&name));
            let server = ServerName {
                pid: task.pid,
                address,
                name: name.to_string(),
            };
            self.frame(now, &Frame::Server(server));
        }
    }

    fn frame(&mut self, now: Nanos, frame: &Frame<'_>) {
        let mut body = Vec::new();
        head(frame, &mut body);
        self.book.held.push(now, body);
    }

    fn write(&mut self, now: Nanos) {
        let (writer, failed) = (&mut self.writer, &mut self.failed);
        self.book.held.ready(now, |body| {
            if failed.is_none() {
                *failed = writer.body(body).err();
            }
        });
    }
}

/// A value of an option as the option says it.
fn word(value: &impl clap::ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// How keys appear, from its name.
fn keys(name: &str) -> Option<Keys> {
    <Keys as clap::ValueEnum>::from_str(name, false).ok()
}

impl Session {
    fn lane(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Request => &mut self.requests,
            Side::Reply => &mut self.replies,
        }
    }

    fn settle(&mut self, held: &mut Held) {
        let watch = self.conversation.watch();
        self.requests.settle(watch.decided(Side::Request), held);
        self.replies.settle(watch.decided(Side::Reply), held);
    }
}

impl Handler for Book {
    type Session = Session;
    type Early = ();

    fn connecting(&mut self, _: &SocketId, _: Option<&Task>, _: Nanos) {}

    fn older(&mut self, _: &SocketId, _: &Task) {}

    fn vanish(&mut self, (): (), _: Close, _: Nanos) {}

    fn open(&mut self, flow: &Flow, _: Option<()>, _: Nanos) -> (Session, bool) {
        let protocol = match self.memcached.expects(flow.server()) {
            true => Protocol::Memcached,
            false => Protocol::Redis,
        };
        let settings = Settings {
            protocol,
            end: flow.end,
            from_start: flow.from_start,
            keep_detail: false,
        };
        let masking = Masking::new(protocol, Arc::clone(&self.names));
        let session = Session {
            conversation: Conversation::watched(settings, masking),
            requests: Lane::default(),
            replies: Lane::default(),
        };
        (session, false)
    }

    fn segment(&mut self, flow: &Flow, session: &mut Session, segment: &Segment<'_>) -> bool {
        if let Content::Bytes(bytes) = segment.content {
            let direction = match (flow.end, segment.side) {
                (End::Client, Side::Request) | (End::Server, Side::Reply) => Direction::Send,
                (End::Client, Side::Reply) | (End::Server, Side::Request) => Direction::Receive,
            };
            let length = bytes.len() as u32;
            let key = (flow.socket.sk, direction);
            let place = self.held.find(key, segment.position, length);
            session.lane(segment.side).push(place, length);
        }
        let conversation = &mut session.conversation;
        let wanted = conversation.segment(segment, &self.telemetry, &mut |_| {});
        session.settle(&mut self.held);
        wanted
    }

    fn tick(&mut self, _: &Flow, session: &mut Session, now: Nanos) -> bool {
        let conversation = &mut session.conversation;
        let wanted = conversation.tick(now, &self.telemetry, &mut |_| {});
        session.settle(&mut self.held);
        wanted
    }

    fn memory(&self, session: &Session) -> usize {
        session.conversation.memory()
    }

    fn relieve(&mut self, _: &Flow, session: &mut Session, now: Nanos) {
        let conversation = &mut session.conversation;
        conversation.relieve(now, &self.telemetry, &mut |_| {});
        session.settle(&mut self.held);
    }

    fn decided(&mut self, _: &Flow, _: &mut Session) {}

    fn close(&mut self, flow: &Flow, mut session: Session, _: Close, time: Nanos) {
        let conversation = &mut session.conversation;
        conversation.close(Ending::Unresolved, time, &self.telemetry, &mut |_| {});
        conversation.watch().finish();
        session.settle(&mut self.held);
        self.held.forget(flow.socket.sk);
    }
}
