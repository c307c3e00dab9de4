//! The server's end: one listening socket, one task per connection.

use crate::appraise::Appraise;
use crate::freshness;
use crate::identity::Identity;
use crate::pump::{pump, Stop};
use crate::runtime::runtime;
use crate::tls::{exporters, server_config, Check, Failure};
use crate::verified::{pair, Verified};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

/// Failed handshakes that wait to be reported. More are counted and reported as a number.
const REPORTS: usize = 1_024;
/// After a refusal the peer's bytes are discarded this long, so that the alert reaches it before the reset does.
const LINGER: Duration = Duration::from_millis(500);
/// At most this many bytes are discarded after a refusal.
const LINGER_BYTES: u64 = 128 * 1024;
/// Pause after `accept` itself failed, as it does when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long closing waits for the socket to be gone; it takes microseconds unless the machine is overloaded.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Handshakes at once from one address: whoever connects and says nothing must leave room for others.
const HANDSHAKES_EACH: usize = 64;

/// Handshakes under way, by address.
#[derive(Clone, Default)]
struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, for as long as it lasts.
struct Handshake {
    all: Handshakes,
    address: IpAddr,
}

impl Handshakes {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None if there are too many from this address already.
    fn begin(&self, address: IpAddr) -> Option<Handshake> {
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        if *count >= HANDSHAKES_EACH {
            return None;
        }
        *count += 1;
        Some(Handshake {
            all: self.clone(),
            address,
        })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Told of each connection that was not verified: address and reason.
pub type Report = Box<dyn Fn(&str, &str) + Send>;

/// What a listener needs.
pub struct ListenerOptions {
    /// Address or name to bind.
    pub host: String,
    /// Port; 0 picks one.
    pub port: u16,
    /// This process's certificate and key.
    pub identity: Identity,
    /// Judges each client.
    pub appraiser: Arc<dyn Appraise>,
    /// Called on a thread of its own.
    pub report: Option<Report>,
    /// Connections at once, verified or not.
    pub max_connections: usize,
    /// From the accepted connection to proven freshness.
    pub handshake: Duration,
}

/// What `accept` found.
pub enum Accepted {
    /// A verified connection.
    Connection(Box<Verified>),
    /// None within the time given.
    TimedOut,
    /// The listener is closed.
    Closed,
}

#[derive(Default)]
struct Queue {
    // Never longer than `max_connections`: each entry holds a place there.
    waiting: VecDeque<Box<Verified>>,
    closed: bool,
}

#[derive(Default)]
struct Door {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Door {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dropping the connection, when the door is closed, ends it.
    fn offer(&self, verified: Box<Verified>) {
        let mut queue = self.queue();
        if !queue.closed {
            queue.waiting.push_back(verified);
            self.changed.notify_one();
        }
    }

    fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.waiting.clear();
        self.changed.notify_all();
    }
}

/// Takes reasons without ever waiting for whoever reads them.
#[derive(Clone)]
struct Reporter {
    sender: Option<SyncSender<(String, String)>>,
    lost: Arc<AtomicU64>,
}

impl Reporter {
    fn start(report: Option<Report>) -> Result<Self, Failure> {
        let lost = Arc::new(AtomicU64::new(0));
        let Some(report) = report else {
            return Ok(Self { sender: None, lost });
        };
        let (sender, receiver) = sync_channel::<(String, String)>(REPORTS);
        let counter = lost.clone();
        std::thread::Builder::new()
            .name("mesatee-refusals".into())
            .spawn(move || {
                while let Ok((address, reason)) = receiver.recv() {
                    report(&address, &reason);
                    let more = counter.swap(0, Ordering::Relaxed);
                    if more > 0 {
                        report("", &format!("{more} more refusals came too fast to report"));
                    }
                }
            })
            .map_err(|error| Failure::Local(format!("no thread: {error}")))?;
        Ok(Self {
            sender: Some(sender),
            lost,
        })
    }

    fn tell(&self, address: &str, reason: String) {
        if let Some(sender) = &self.sender {
            if sender.try_send((address.to_owned(), reason)).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What each connection's task needs.
struct Shared {
    identity: Identity,
    appraiser: Arc<dyn Appraise>,
    reporter: Reporter,
    door: Arc<Door>,
    handshake: Duration,
}

/// A listening socket whose connections are all verified.
pub struct Listener {
    door: Arc<Door>,
    port: u16,
    accepting: AbortHandle,
    // Disconnected once the accepting task, and with it the socket, is gone.
    gone: Mutex<Receiver<()>>,
}

impl Listener {
    /// Bind and start accepting. Blocks for the look-up of a name.
    pub fn bind(options: ListenerOptions) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let cannot = |error: std::io::Error| Failure::Local(format!("cannot listen: {error}"));
        let socket = runtime
            .block_on(TcpListener::bind((options.host.as_str(), options.port)))
            .map_err(cannot)?;
        let port = socket.local_addr().map_err(cannot)?.port();
        let door = Arc::new(Door::default());
        let shared = Arc::new(Shared {
            identity: options.identity,
            appraiser: options.appraiser,
            reporter: Reporter::start(options.report)?,
            door: door.clone(),
            handshake: options.handshake,
        });
        let (alive, gone) = sync_channel::<()>(0);
        let places = Arc::new(Semaphore::new(
            options.max_connections.min(Semaphore::MAX_PERMITS),
        ));
        let task = runtime.spawn(async move {
            let _alive = alive;
            accept_all(socket, shared, places).await;
        });
        Ok(Self {
            door,
            port,
            accepting: task.abort_handle(),
            gone: Mutex::new(gone),
        })
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next verified connection. Blocks.
    pub fn accept(&self, wait: Duration) -> Accepted {
        let until = Instant::now() + wait;
        let mut queue = self.door.queue();
        loop {
            if queue.closed {
                return Accepted::Closed;
            }
            if let Some(verified) = queue.waiting.pop_front() {
                return Accepted::Connection(verified);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Accepted::TimedOut;
            }
            queue = self
                .door
                .changed
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Close the socket, the handshakes under way and the connections that nobody took. Others live on.
    pub fn close(&self) {
        self.door.close();
        self.accepting.abort();
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody ever sends: either the task is gone, or it is late.
        let _: Result<(), RecvTimeoutError> = gone.recv_timeout(CLOSE_WAIT);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.door.close();
        self.accepting.abort();
    }
}

async fn accept_all(socket: TcpListener, shared: Arc<Shared>, places: Arc<Semaphore>) {
    // Handshakes end with the listener; a verified connection moves to a task of its own.
    let mut handshakes = JoinSet::new();
    let begun = Handshakes::default();
    loop {
        while handshakes.try_join_next().is_some() {}
        match socket.accept().await {
            Ok((tcp, address)) => {
                let place = places.clone().try_acquire_owned().ok();
                match (place, begun.begin(address.ip())) {
                    (Some(place), Some(handshake)) => {
                        handshakes.spawn(serve(tcp, address, shared.clone(), place, handshake));
                    }
                    (place, _) => {
                        drop(tcp);
                        let many = if place.is_some() {
                            "handshakes from this address"
                        } else {
                            "connections"
                        };
                        let reason = format!("there are too many {many}");
                        shared.reporter.tell(&address.to_string(), reason);
                    }
                }
            }
            Err(error) => {
                shared.reporter.tell("", format!("accept failed: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection up to its verification.
async fn serve(
    tcp: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
    handshake: Handshake,
) {
    let address = address.to_string();
    let deadline = Instant::now() + shared.handshake;
    let verified = timeout_at(
        deadline.into(),
        establish(tcp, address.clone(), &shared, deadline),
    )
    .await
    .unwrap_or(Err((Failure::TimedOut, None)));
    match verified {
        Ok(connection) => {
            drop(handshake);
            let Connection {
                tls,
                ours,
                stop,
                verified,
            } = connection;
            tokio::spawn(async move {
                pump(tls, ours, &stop).await;
                drop(place);
            });
            shared.door.offer(verified);
        }
        Err((failure, tcp)) => {
            shared.reporter.tell(&address, failure.reason());
            if let Some(tcp) = tcp {
                let _ = timeout(LINGER, discard(tcp)).await;
            }
        }
    }
}

struct Connection {
    tls: TlsStream<TcpStream>,
    ours: UnixStream,
    stop: Arc<Stop>,
    verified: Box<Verified>,
}

/// TLS handshake with appraisal, then freshness. Gives the socket back where an alert may still be on its way.
async fn establish(
    tcp: TcpStream,
    address: String,
    shared: &Shared,
    deadline: Instant,
) -> Result<Connection, (Failure, Option<TcpStream>)> {
    let bare = |failure: Failure| (failure, None);
    tcp.set_nodelay(true)
        .map_err(|error| bare(Failure::Refused(format!("the client left: {error}"))))?;
    let check = Check::new(shared.appraiser.clone(), deadline);
    let config = server_config(&shared.identity, &check).map_err(bare)?;
    let mut tls = TlsAcceptor::from(config)
        .accept(tcp)
        .into_fallible()
        .await
        .map_err(|(error, tcp)| (check.failure(&error), Some(tcp)))?;
    let (_, session) = tls.get_ref();
    let (peer, appraisal) = check.finish(session.alpn_protocol()).map_err(bare)?;
    let (fresh, exporter) = exporters(session).map_err(bare)?;
    // Before the last byte of the exchange: a client that was told `accepted` must not be dropped for want of descriptors.
    let (ours, stream) = pair().map_err(bare)?;
    freshness::server(&mut tls, fresh, &shared.identity, &peer)
        .await
        .map_err(|error| bare(error.into()))?;
    let stop = Arc::new(Stop::default());
    let verified = Box::new(Verified {
        peer,
        appraisal,
        exporter,
        address,
        stream,
        stop: stop.clone(),
    });
    Ok(Connection {
        tls,
        ours,
        stop,
        verified,
    })
}

/// Say that we are done, and take what the peer had already sent.
async fn discard(mut tcp: TcpStream) {
    if tcp.shutdown().await.is_ok() {
        let mut rest = tcp.take(LINGER_BYTES);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }
}
