//! Bindings of `mesatee-channel`.
//!
//! Two rules keep this free of deadlocks: no Rust call that waits holds the interpreter, and a callback attaches only for
//! its own duration. `Gate` ends callbacks before the interpreter does.
use crate::errors::raise;
use crate::keys::SigningKey;
use mesatee_channel as channel;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting `accept` looks for signals, so that Ctrl-C works.
const SIGNAL_CHECK: Duration = Duration::from_millis(200);
/// A longer wait than anybody means, in seconds; keeps clock arithmetic from overflowing.
const LONGEST_WAIT: f64 = 1e8;
/// How long the end of the interpreter waits for callbacks that are running.
const QUIESCE: Duration = Duration::from_secs(5);

// -- callbacks and the end of the interpreter --------------------------------------------------------

#[derive(Default)]
struct Callbacks {
    running: usize,
    closed: bool,
}

/// Counts the callbacks that Rust threads have running, and the calls that wait in Rust and must attach again to return
/// (they may be on daemon threads). A thread that attaches to an interpreter which is being finalised
/// is killed by CPython in the middle of Rust frames; so at exit this closes first.
struct Gate {
    callbacks: Mutex<Callbacks>,
    changed: Condvar,
}

static GATE: Gate = Gate {
    callbacks: Mutex::new(Callbacks {
        running: 0,
        closed: false,
    }),
    changed: Condvar::new(),
};

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Callbacks> {
        self.callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A place inside; `None` when the interpreter is ending.
    fn enter(&self) -> Option<Inside<'_>> {
        let mut callbacks = self.lock();
        if callbacks.closed {
            return None;
        }
        callbacks.running += 1;
        Some(Inside(self))
    }

    /// Run `callback` attached to the interpreter; `None` when that is ending.
    fn run<T>(&self, callback: impl FnOnce(Python<'_>) -> T) -> Option<T> {
        let _inside = self.enter()?;
        Python::try_attach(callback)
    }

    fn close(&self) {
        let mut callbacks = self.lock();
        callbacks.closed = true;
        let _ = self
            .changed
            .wait_timeout_while(callbacks, QUIESCE, |callbacks| callbacks.running > 0);
    }
}

/// Held while a thread may have to attach.
struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.changed.notify_all();
    }
}

/// Registered with `atexit`: no callback starts any more, those running may finish.
#[pyfunction]
fn _end_callbacks(py: Python<'_>) {
    py.detach(|| GATE.close());
}

/// A Python callable as appraiser.
struct PyAppraiser(Py<PyAny>);

impl channel::Appraise for PyAppraiser {
    fn appraise(
        &self,
        peer: &channel::PeerCertificate,
    ) -> Result<channel::Appraisal, channel::Refusal> {
        let verdict = GATE.run(|py| {
            let peer = PeerCertificate(Arc::new(peer.clone()));
            self.0.call1(py, (peer,)).map_err(|error| channel::Refusal {
                reason: error.to_string(),
                cause: Box::new(error),
            })
        });
        match verdict {
            Some(Ok(appraisal)) => Ok(Box::new(appraisal)),
            Some(Err(refusal)) => Err(refusal),
            None => Err(channel::Refusal {
                reason: "this process is ending".into(),
                cause: Box::new(()),
            }),
        }
    }
}

fn appraiser(callable: &Bound<'_, PyAny>) -> PyResult<Arc<dyn channel::Appraise>> {
    if !callable.is_callable() {
        return Err(PyTypeError::new_err("appraise must be callable"));
    }
    Ok(Arc::new(PyAppraiser(callable.clone().unbind())))
}

// -- errors ------------------------------------------------------------------------------------------

fn certificate_error(py: Python<'_>, error: channel::CertificateError) -> PyErr {
    use channel::CertificateError as E;
    let class = match error {
        E::Malformed(_) => "Malformed",
        E::TooLarge(_) => "TooLarge",
        E::SignatureInvalid => "SignatureInvalid",
        E::Unsupported(_) => "UnsupportedVersion",
        E::OutsideValidity => "Expired",
        E::OtherKey => "KeyRefused",
    };
    raise(py, class, error.message())
}

fn failure(py: Python<'_>, failure: channel::Failure) -> PyErr {
    let reason = failure.reason();
    match failure {
        // What the callback raised goes on as it is.
        channel::Failure::Appraisal(refusal) => match refusal.cause.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(_) => raise(py, "Unavailable", reason),
        },
        channel::Failure::Peer(_) | channel::Failure::Refused(_) => {
            raise(py, "EvidenceRefused", reason)
        }
        channel::Failure::TimedOut => raise(py, "TimedOut", "the peer was not verified in time"),
        channel::Failure::Unreachable(_) => raise(py, "HostFailed", reason),
        channel::Failure::Local(_) => raise(py, "Unavailable", reason),
    }
}

fn inside(py: Python<'_>) -> PyResult<Inside<'static>> {
    GATE.enter()
        .ok_or_else(|| raise(py, "Unavailable", "this process is ending"))
}

fn seconds(py: Python<'_>, value: f64) -> PyResult<Duration> {
    // Not `min`, which would turn a NaN into the longest wait.
    let value = if value > LONGEST_WAIT {
        LONGEST_WAIT
    } else {
        value
    };
    Duration::try_from_secs_f64(value).map_err(|_| {
        raise(
            py,
            "Malformed",
            "a time is a number of seconds, not negative",
        )
    })
}

fn identity(py: Python<'_>, certificate: &[u8], key: &SigningKey) -> PyResult<channel::Identity> {
    channel::Identity::new(certificate, key.0.clone()).map_err(|error| certificate_error(py, error))
}

// -- certificates ------------------------------------------------------------------------------------

/// What a peer presented, parsed in Rust; its signature over itself is checked.
#[pyclass(frozen, module = "mesatee._core")]
struct PeerCertificate(Arc<channel::PeerCertificate>);

#[pymethods]
impl PeerCertificate {
    #[getter]
    fn der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.der())
    }

    #[getter]
    fn spki<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.spki())
    }

    #[getter]
    fn public<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.public())
    }

    #[getter]
    fn evidence<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.evidence().map(|value| PyBytes::new(py, value))
    }

    #[getter]
    fn not_before(&self) -> i64 {
        self.0.not_before()
    }

    #[getter]
    fn not_after(&self) -> i64 {
        self.0.not_after()
    }
}

#[pyfunction]
fn parse_certificate(py: Python<'_>, der: &[u8]) -> PyResult<PeerCertificate> {
    channel::parse_certificate(der)
        .map(|peer| PeerCertificate(Arc::new(peer)))
        .map_err(|error| certificate_error(py, error))
}

#[pyfunction]
fn make_certificate<'py>(
    py: Python<'py>,
    key: &SigningKey,
    common_name: &str,
    not_before: i64,
    not_after: i64,
    evidence: Option<&[u8]>,
) -> PyResult<Bound<'py, PyBytes>> {
    channel::make_certificate(&key.0, common_name, not_before, not_after, evidence)
        .map(|der| PyBytes::new(py, &der))
        .map_err(|error| certificate_error(py, error))
}

#[pyfunction]
fn spki<'py>(py: Python<'py>, public: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let public = public
        .try_into()
        .map_err(|_| raise(py, "Malformed", "an Ed25519 key has 32 bytes"))?;
    Ok(PyBytes::new(py, &channel::spki(public)))
}

// -- connections -------------------------------------------------------------------------------------

/// A verified connection.
#[pyclass(frozen, module = "mesatee._core")]
struct Connection {
    peer: Py<PeerCertificate>,
    appraisal: Py<PyAny>,
    exporter: [u8; 32],
    address: String,
    stream: Mutex<Option<UnixStream>>,
    stopper: channel::Stopper,
}

impl Connection {
    fn new(py: Python<'_>, verified: channel::Verified) -> PyResult<Self> {
        let stopper = verified.stopper();
        let appraisal: Box<dyn Any + Send + Sync> = verified.appraisal;
        let appraisal = appraisal
            .downcast::<Py<PyAny>>()
            .map_err(|_| raise(py, "Unavailable", "the appraisal is not a Python object"))?;
        Ok(Self {
            peer: Py::new(py, PeerCertificate(Arc::new(verified.peer)))?,
            appraisal: *appraisal,
            exporter: verified.exporter,
            address: verified.address,
            stream: Mutex::new(Some(verified.stream)),
            stopper,
        })
    }

    fn take(&self) -> Option<UnixStream> {
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

#[pymethods]
impl Connection {
    #[getter]
    fn peer(&self, py: Python<'_>) -> Py<PeerCertificate> {
        self.peer.clone_ref(py)
    }

    #[getter]
    fn appraisal(&self, py: Python<'_>) -> Py<PyAny> {
        self.appraisal.clone_ref(py)
    }

    #[getter]
    fn exporter<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.exporter)
    }

    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    fn detach(&self, py: Python<'_>) -> PyResult<i32> {
        match self.take() {
            Some(stream) => {
                use std::os::fd::IntoRawFd;
                Ok(OwnedFd::from(stream).into_raw_fd())
            }
            None => Err(raise(
                py,
                "StateError",
                "the connection's socket was taken or closed before",
            )),
        }
    }

    fn close(&self) {
        drop(self.take());
        self.stopper.stop();
    }
}

/// The only listening socket.
#[pyclass(frozen, module = "mesatee._core")]
struct Listener(channel::Listener);

#[pymethods]
impl Listener {
    #[new]
    #[pyo3(signature = (host, port, certificate, key, appraise, refused=None, max_connections=1024, handshake_seconds=10.0))]
    // The parameters are those of `_core.pyi`.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        host: String,
        port: u16,
        certificate: &[u8],
        key: &SigningKey,
        appraise: &Bound<'_, PyAny>,
        refused: Option<Py<PyAny>>,
        max_connections: usize,
        handshake_seconds: f64,
    ) -> PyResult<Self> {
        let report = refused.map(|callable| {
            Box::new(move |address: &str, reason: &str| {
                GATE.run(|py| {
                    if let Err(error) = callable.call1(py, (address, reason)) {
                        error.write_unraisable(py, Some(callable.bind(py)));
                    }
                });
            }) as channel::Report
        });
        let options = channel::ListenerOptions {
            host,
            port,
            identity: identity(py, certificate, key)?,
            appraiser: appraiser(appraise)?,
            report,
            max_connections,
            handshake: seconds(py, handshake_seconds)?,
        };
        py.detach(|| channel::Listener::bind(options))
            .map(Self)
            .map_err(|error| failure(py, error))
    }

    #[getter]
    fn port(&self) -> u16 {
        self.0.port()
    }

    #[pyo3(signature = (timeout=None))]
    fn accept(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Connection>> {
        let mut left = seconds(py, timeout.unwrap_or(f64::INFINITY))?;
        loop {
            let wait = left.min(SIGNAL_CHECK);
            let _inside = inside(py)?;
            match py.detach(|| self.0.accept(wait)) {
                channel::Accepted::Connection(verified) => {
                    return Connection::new(py, *verified).map(Some)
                }
                channel::Accepted::Closed => {
                    return Err(raise(py, "Unavailable", "the listener is closed"))
                }
                channel::Accepted::TimedOut => {
                    left = left.saturating_sub(wait);
                    if left.is_zero() {
                        return Ok(None);
                    }
                }
            }
            py.check_signals()?;
        }
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

#[pyfunction]
#[pyo3(signature = (host, port, certificate, key, appraise, timeout=10.0))]
fn connect(
    py: Python<'_>,
    host: String,
    port: u16,
    certificate: &[u8],
    key: &SigningKey,
    appraise: &Bound<'_, PyAny>,
    timeout: f64,
) -> PyResult<Connection> {
    let identity = identity(py, certificate, key)?;
    let appraiser = appraiser(appraise)?;
    let timeout = seconds(py, timeout)?;
    let _inside = inside(py)?;
    let verified = py.detach(|| channel::connect(&host, port, &identity, appraiser, timeout));
    Connection::new(py, verified.map_err(|error| failure(py, error))?)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PeerCertificate>()?;
    module.add_class::<Connection>()?;
    module.add_class::<Listener>()?;
    module.add_function(wrap_pyfunction!(parse_certificate, module)?)?;
    module.add_function(wrap_pyfunction!(make_certificate, module)?)?;
    module.add_function(wrap_pyfunction!(spki, module)?)?;
    module.add_function(wrap_pyfunction!(connect, module)?)?;
    let end = wrap_pyfunction!(_end_callbacks, module)?;
    module
        .py()
        .import("atexit")?
        .call_method1("register", (end,))?;
    Ok(())
}
