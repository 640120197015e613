//! Every attribute, metric and environment name that leaves this program, each defined once with its source.
//!
//! Sources: *semconv* is OpenTelemetry semantic conventions 1.44 (`db/database-spans`, `db/redis`,
//! `db/database-metrics`, `resource/*`, `registry/attributes/*`); *ours* are names of this project, because no
//! convention for caches exists.

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
    };
}

/// Attributes of spans and metrics.
pub mod attribute {
    names! {
        /// Which protocol. semconv, stable.
        DB_SYSTEM_NAME = "db.system.name";
        /// Command, upper-case (our choice). semconv, stable.
        DB_OPERATION_NAME = "db.operation.name";
        /// Redis database index, as a string. semconv, stable.
        DB_NAMESPACE = "db.namespace";
        /// Commands of a batch of two or more. semconv, stable.
        DB_OPERATION_BATCH_SIZE = "db.operation.batch.size";
        /// Sanitized command. semconv, stable.
        DB_QUERY_TEXT = "db.query.text";
        /// Error prefix or status. semconv, stable.
        DB_RESPONSE_STATUS_CODE = "db.response.status_code";
        /// Script digest or function name. semconv, stable.
        DB_STORED_PROCEDURE_NAME = "db.stored_procedure.name";
        /// Class of error. semconv, stable.
        ERROR_TYPE = "error.type";
        /// The server's address. semconv, stable.
        SERVER_ADDRESS = "server.address";
        /// The server's port. semconv, stable.
        SERVER_PORT = "server.port";
        /// Address of the other end. semconv, stable.
        NETWORK_PEER_ADDRESS = "network.peer.address";
        /// Port of the other end. semconv, stable.
        NETWORK_PEER_PORT = "network.peer.port";
        /// `tcp`, `udp` or `unix`. semconv, stable.
        NETWORK_TRANSPORT = "network.transport";
        /// `ipv4` or `ipv6`. semconv, stable.
        NETWORK_TYPE = "network.type";
        /// The cache: `address:port` or its configured name. Ours.
        CACHE_NAME = "cache.name";
        /// Class of the operation. Ours.
        CACHE_OPERATION = "cache.operation";
        /// First key, or the first keys. Ours.
        CACHE_KEY = "cache.key";
        /// Pattern of the key, or the different patterns of the keys. Ours.
        CACHE_KEY_PATTERN = "cache.key_pattern";
        /// Keys of a command that names several. Ours.
        CACHE_KEY_COUNT = "cache.key_count";
        /// Whether a read of one key or field found it. Ours.
        CACHE_HIT = "cache.hit";
        /// Keys or fields found by a read of several. Ours.
        CACHE_HITS = "cache.hits";
        /// Keys or fields not found by a read of several. Ours.
        CACHE_MISSES = "cache.misses";
        /// hits / (hits + misses) of a read of several. Ours.
        CACHE_HIT_RATE = "cache.hit_rate";
        /// Bytes of the values read or written. Ours.
        CACHE_VALUE_SIZE = "cache.value_size";
        /// Time to live that the command sets, seconds. Ours.
        CACHE_TTL = "cache.ttl";
        /// Time that the key has still to live, seconds. Ours.
        CACHE_TTL_REMAINING = "cache.ttl_remaining";
        /// Keys or fields removed. Ours.
        CACHE_DELETED_COUNT = "cache.deleted_count";
        /// Target of MOVED or ASK. Ours.
        CACHE_REDIRECT = "cache.redirect";
        /// The server may hold the reply back. Ours.
        CACHE_BLOCKING = "cache.blocking";
        /// No reply was to come. Ours.
        CACHE_NO_REPLY = "cache.no_reply";
        /// User that the connection is authenticated as. Ours: `db.user` was removed from semconv in 1.25, without successor.
        CACHE_USER = "cache.user";
        /// Name that the client gave its connection. Ours.
        CACHE_CLIENT_NAME = "cache.client.name";
        /// Client library, as it calls itself. Ours.
        CACHE_CLIENT_LIBRARY_NAME = "cache.client.library.name";
        /// Version of the client library. Ours.
        CACHE_CLIENT_LIBRARY_VERSION = "cache.client.library.version";
        /// Probability with which the span was kept, where it was not certain. Ours; the same in the trace state is
        /// OpenTelemetry's (`ot=th:…`, development).
        SAMPLING_RATIO = "sampling.ratio";
        /// The pool: its cache's name. semconv, development.
        POOL_NAME = "db.client.connection.pool.name";
        /// `idle` or `used`. semconv, development.
        POOL_STATE = "db.client.connection.state";
        /// Marks what is an estimate. Ours.
        ESTIMATED = "estimated";
        /// Of the observer's own metrics: why. Ours.
        REASON = "reason";
        /// Of the observer's own metrics: which protocol. Ours.
        PROTOCOL = "protocol";
        /// Of the observer's own metrics: what became of a span. Ours.
        OUTCOME = "outcome";
        /// Of the observer's own metrics: which limit, by its name in the configuration. Ours.
        LIMIT = "limit";
        /// `user` or `system`. semconv, registry `cpu.mode`.
        CPU_MODE = "cpu.mode";
    }
}

/// Older names of span attributes, added by `--naming dup`. Those that begin with `db.` or `net.` and name no system: semconv before
/// 1.25, deprecated. The others: names of common guides.
pub mod older {
    names! {
        /// Now `db.system.name`.
        DB_SYSTEM = "db.system";
        /// Now `db.operation.name`.
        DB_OPERATION = "db.operation";
        /// Now `db.namespace`.
        DB_NAME = "db.name";
        /// Now `db.query.text`.
        DB_STATEMENT = "db.statement";
        /// Now `server.address`.
        NET_PEER_NAME = "net.peer.name";
        /// Now `server.port`.
        NET_PEER_PORT = "net.peer.port";
        /// As `db.operation.name`.
        REDIS_COMMAND = "db.redis.command";
        /// As `cache.key`; several joined by `, `.
        REDIS_KEY = "db.redis.key";
        /// As `cache.key_pattern`; several joined by `, `.
        REDIS_KEY_PATTERN = "db.redis.key_pattern";
        /// As `cache.key_count`.
        REDIS_KEY_COUNT = "db.redis.key_count";
        /// As `cache.deleted_count`.
        REDIS_DELETED_COUNT = "db.redis.deleted_count";
        /// As `cache.ttl`.
        REDIS_TTL_SECONDS = "db.redis.ttl_seconds";
        /// As `db.operation.batch.size`.
        REDIS_PIPELINE_LENGTH = "db.redis.pipeline_length";
        /// As `cache.key`; several joined by `, `.
        MEMCACHED_KEY = "db.memcached.key";
        /// As `cache.ttl`.
        MEMCACHED_TTL = "db.memcached.ttl";
        /// Duration of the span, ms.
        CACHE_LATENCY_MS = "cache.latency_ms";
    }
}

/// Attributes of a resource.
pub mod resource {
    names! {
        /// Logical name. semconv, stable.
        SERVICE_NAME = "service.name";
        /// Tells instances of a service apart: `<host>:<process id>`. semconv, stable.
        SERVICE_INSTANCE_ID = "service.instance.id";
        /// Version of the observer, on its own resource. semconv, stable.
        SERVICE_VERSION = "service.version";
        /// Process id. semconv.
        PROCESS_PID = "process.pid";
        /// Name of the executable. semconv.
        PROCESS_EXECUTABLE_NAME = "process.executable.name";
        /// Container id. semconv.
        CONTAINER_ID = "container.id";
        /// Uid of the pod; of a static pod the digest of its file. semconv.
        K8S_POD_UID = "k8s.pod.uid";
        /// Name of the pod. semconv.
        K8S_POD_NAME = "k8s.pod.name";
        /// Namespace of the pod. semconv.
        K8S_NAMESPACE_NAME = "k8s.namespace.name";
        /// `Guaranteed`, `Burstable` or `BestEffort`. As the Collector's `k8scluster` receiver calls it.
        K8S_POD_QOS_CLASS = "k8s.pod.qos_class";
        /// The node's name. semconv.
        K8S_NODE_NAME = "k8s.node.name";
        /// The systemd unit. Ours.
        SYSTEMD_UNIT = "systemd.unit";
        /// Host name. semconv.
        HOST_NAME = "host.name";
    }
}

/// Metrics.
pub mod metric {
    names! {
        /// Latency seen at the client's end, s. semconv `db/database-metrics`, stable.
        CLIENT_DURATION = "db.client.operation.duration";
        /// Values that a read returned, at the client's end. semconv `db/database-metrics`, development.
        RETURNED_ROWS = "db.client.response.returned_rows";
        /// Latency seen at the server's end, s. Ours.
        SERVER_DURATION = "cache.server.duration";
        /// Commands. Ours.
        OPERATIONS = "cache.operations";
        /// Keys found. Ours.
        HITS = "cache.hits";
        /// Keys not found. Ours.
        MISSES = "cache.misses";
        /// hits / (hits + misses) since the last collection. Ours.
        HIT_RATE = "cache.hit_rate";
        /// Latency by class, ms. Ours.
        LATENCY = "cache.latency";
        /// Times to live that commands set, s. Ours.
        TTL = "cache.ttl";
        /// Bytes of values read or written, by command. Ours.
        VALUE_SIZE = "cache.value_size";
        /// Error replies, and requests that were never answered. Ours.
        ERRORS = "cache.errors";
        /// Connections of a pool, by state. semconv `db/database-metrics`, development.
        CONNECTION_COUNT = "db.client.connection.count";
        /// From connect to ready, s. semconv `db/database-metrics`, development.
        CONNECTION_CREATE_TIME = "db.client.connection.create_time";
        /// From connect to established, s. Ours.
        CONNECTION_CONNECT_TIME = "cache.connection.connect_time";
        /// Connections being opened or set up. Ours.
        CONNECTION_OPENING = "cache.connection.opening";
        /// Requests outstanding behind another on their connection. Ours.
        CONNECTION_QUEUED = "cache.connection.queued";
        /// From a request on an idle connection until it is idle again, s. Ours.
        CONNECTION_BUSY_TIME = "cache.connection.busy_time";
        /// How long a request waited behind others on its connection, s. Ours.
        CONNECTION_QUEUE_TIME = "cache.connection.queue_time";
        /// Connections established. Ours.
        CONNECTION_OPENED = "cache.connection.opened";
        /// Connections that ended. Ours.
        CONNECTION_CLOSED = "cache.connection.closed";
        /// Attempts that led to no connection. Ours.
        CONNECTION_FAILED = "cache.connection.failed";
        /// Age of connections at their end, s. Ours.
        CONNECTION_AGE = "cache.connection.age";
        /// Commands that connections had carried at their end, without their set-up. Ours.
        CONNECTION_COMMANDS = "cache.connection.commands";
        /// Tests of idle connections. Ours.
        CONNECTION_HEALTH_CHECKS = "cache.connection.health_checks";
        /// Connections that ended after hardly a command. Ours.
        CONNECTION_CHURNED = "cache.connection.churned";
        /// 1 while nearly every connection ends after hardly a command. Ours.
        CONNECTION_CHURNING = "cache.connection.churning";
        /// How long a pool had none idle while it needed one, s. Ours.
        CONNECTION_EXHAUSTED_TIME = "cache.connection.exhausted_time";
        /// 1 while that is so for long. Ours.
        CONNECTION_EXHAUSTED = "cache.connection.exhausted";
        /// Connections. Of cache guides, with `--naming dup`.
        POOL_SIZE = "redis.pool.size";
        /// Idle connections. Of cache guides, with `--naming dup`.
        POOL_AVAILABLE = "redis.pool.available";
        /// Connections being opened and requests queued, as an estimate. Of cache guides, with `--naming dup`.
        POOL_PENDING = "redis.pool.pending";
        /// Create time, ms, as an estimate. Of cache guides, with `--naming dup`.
        POOL_ACQUIRE_TIME = "redis.pool.acquire_time";
        /// Events that arrived. Ours.
        EVENTS = "observer.events";
        /// Events that did not arrive. Ours.
        EVENTS_LOST = "observer.events.lost";
        /// Payload bytes that arrived. Ours.
        PAYLOAD_CAPTURED = "observer.payload.captured";
        /// Payload bytes that were not read. Ours.
        PAYLOAD_SKIPPED = "observer.payload.skipped";
        /// Connections tracked now. Ours.
        CONNECTIONS = "observer.connections";
        /// Connections whose framing was lost and found again. Ours.
        RESYNCHRONIZATIONS = "observer.resynchronizations";
        /// Replies that no request waited for. Ours.
        REPLIES_ORPHANED = "observer.replies.orphaned";
        /// What became of spans. Ours.
        SPANS = "observer.spans";
        /// What was left out, forgotten or put together because a limit was reached. Ours.
        LIMITS_EXCEEDED = "observer.limits.exceeded";
        /// Exports of metrics that failed. Ours.
        METRIC_EXPORTS_FAILED = "observer.metric_exports.failed";
        /// Scrapes that were answered. Ours.
        SCRAPES = "observer.scrapes";
        /// CPU time of the observer, s. Ours.
        CPU_TIME = "observer.cpu.time";
        /// Resident memory of the observer, By. Ours.
        MEMORY = "observer.memory";
    }
}

/// Values that are fixed.
pub mod value {
    names! {
        /// A name beyond a budget. semconv's fallback for `error.type`; ours for other names.
        OTHER = "_OTHER";
        /// `error.type` of a request whose connection ended before its reply. Ours.
        CONNECTION_CLOSED = "connection_closed";
        /// `error.type` of a connection: nobody listens there. Ours.
        CONNECTION_REFUSED = "connection_refused";
        /// `error.type` of a connection: the other end reset it. Ours.
        CONNECTION_RESET = "connection_reset";
        /// `error.type` of a connection: the kernel had no answer. Ours.
        TIMEOUT = "timeout";
        /// `error.type` of a connection: the network knows no way. Ours.
        UNREACHABLE = "unreachable";
        /// `error.type` of a connection: ended from outside. Ours.
        CONNECTION_ABORTED = "connection_aborted";
        /// `error.type` of an attempt: the client gave it up. Ours.
        CANCELED = "canceled";
        /// A flag that is set, as an attribute of metrics.
        TRUE = "true";
        /// `service.name` of the observer itself.
        OBSERVER = "cache-observer";
        /// `service.name` when nothing is known. semconv, resource.
        UNKNOWN_SERVICE = "unknown_service";
        /// `service.name` of what is beyond the budget for services.
        OVERFLOW_SERVICE = "cache-observer.overflow";
        /// Instrumentation scope of all spans and metrics.
        SCOPE = "cache-observer";
    }
}
