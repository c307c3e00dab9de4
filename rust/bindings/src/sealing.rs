//! Bindings of `mesatee-sealing`.
use crate::errors::{bytes_or_raise, file_error, not_copied, raise, sealing_error, OrRaise};
use crate::keys::{shown, SecretKey, SigningKey};
use mesatee_sealing as sealing;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use sealing::{OpenWith, SealingError, Stopped, Watch};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Mutex;

/// A duplicate of the caller's file descriptor; the caller's own stays open.
pub(crate) fn file_of(py: Python<'_>, fd: i32) -> PyResult<File> {
    let closed = || raise(py, "Malformed", "the file descriptor is not open");
    if fd < 0 {
        return Err(closed());
    }
    // SAFETY: the borrow lasts for the duplication only, during which the interpreter's lock keeps Python code from closing
    // it. A descriptor that is not open makes the duplication fail and does no harm.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map(File::from)
        .map_err(|_| closed())
}

/// Calls back into Python while the interpreter's lock is given up, and keeps what was raised there.
struct Caller {
    callback: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Caller {
    fn new(callback: Option<Py<PyAny>>) -> Self {
        Self {
            callback,
            raised: Mutex::new(None),
        }
    }

    fn call(&self, done: Option<u64>) -> Result<(), Stopped> {
        let result = Python::attach(|py| {
            // So that Ctrl-C ends a long run.
            py.check_signals()?;
            if let (Some(callback), Some(done)) = (&self.callback, done) {
                callback.call1(py, (done,))?;
            }
            Ok(())
        });
        result.map_err(|error| {
            if let Ok(mut raised) = self.raised.lock() {
                *raised = Some(error);
            }
            Stopped
        })
    }

    fn error(self, py: Python<'_>, error: SealingError) -> PyErr {
        let raised = self.raised.into_inner().ok().flatten();
        match (error, raised) {
            (SealingError::Stopped, Some(raised)) => raised,
            (error, _) => sealing_error(py, error),
        }
    }
}

impl Watch for Caller {
    fn progress(&self, done: u64) -> Result<(), Stopped> {
        self.call(Some(done))
    }

    fn interrupted(&self) -> Result<(), Stopped> {
        self.call(None)
    }
}

/// An X-Wing private key.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct HpkeKey(pub(crate) sealing::HpkeKey);

#[pymethods]
impl HpkeKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        sealing::HpkeKey::generate().map(Self).or_raise(py)
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: &str) -> PyResult<Self> {
        py.detach(|| sealing::HpkeKey::load(Path::new(path)))
            .map(Self)
            .map_err(|error| file_error(py, path, error))
    }

    fn save(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        py.detach(|| self.0.save(Path::new(path)))
            .map_err(|error| file_error(py, path, error))
    }

    #[staticmethod]
    fn import_sealed(
        py: Python<'_>,
        sealed: &[u8],
        by: &SecretKey,
        context: &[u8],
    ) -> PyResult<Self> {
        sealing::HpkeKey::import_sealed(sealed, &by.0, context)
            .map(Self)
            .or_raise(py)
    }

    fn export_sealed<'py>(
        &self,
        py: Python<'py>,
        by: &SecretKey,
        context: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(py, self.0.export_sealed(&by.0, context))
    }

    #[getter]
    fn public<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.public())
    }

    fn unwrap_file_key(
        &self,
        py: Python<'_>,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<FileKey> {
        py.detach(|| self.0.unwrap_file_key(wrap, info, aad))
            .map(FileKey)
            .or_raise(py)
    }

    fn wrap_to<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(py, py.detach(|| self.0.wrap_to(to, info, aad)))
    }

    fn unwrap_signing_key(
        &self,
        py: Python<'_>,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<SigningKey> {
        py.detach(|| self.0.unwrap_signing_key(wrap, info, aad))
            .map(SigningKey)
            .or_raise(py)
    }

    fn unwrap_hpke_key(
        &self,
        py: Python<'_>,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Self> {
        py.detach(|| self.0.unwrap_hpke_key(wrap, info, aad))
            .map(Self)
            .or_raise(py)
    }

    fn unwrap_secret_key(
        &self,
        py: Python<'_>,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<SecretKey> {
        py.detach(|| self.0.unwrap_secret_key(wrap, info, aad))
            .map(SecretKey)
            .or_raise(py)
    }

    fn unwrap_bytes<'py>(
        &self,
        py: Python<'py>,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        py.detach(|| self.0.unwrap(wrap, info, aad))
            .map(|plaintext| plaintext.with(|bytes| PyBytes::new(py, bytes)))
            .or_raise(py)
    }

    fn __repr__(&self) -> String {
        shown("HpkeKey", self.0.public())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("HpkeKey"))
    }
}

#[pyfunction]
fn hpke_wrap_bytes<'py>(
    py: Python<'py>,
    to: &[u8],
    plaintext: &[u8],
    info: &[u8],
    aad: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    bytes_or_raise(py, py.detach(|| sealing::wrap(to, plaintext, info, aad)))
}

/// The file key of one age file.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct FileKey(sealing::FileKey);

#[pymethods]
impl FileKey {
    fn wrap<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(py, py.detach(|| self.0.wrap(to, info, aad)))
    }

    fn __repr__(&self) -> &'static str {
        "<FileKey>"
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("FileKey"))
    }
}

/// An age X25519 identity.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct AgeKey(pub(crate) sealing::AgeKey);

#[pymethods]
impl AgeKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        sealing::AgeKey::generate().map(Self).or_raise(py)
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: &str) -> PyResult<Self> {
        py.detach(|| sealing::AgeKey::load(Path::new(path)))
            .map(Self)
            .map_err(|error| file_error(py, path, error))
    }

    fn save(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        py.detach(|| self.0.save(Path::new(path)))
            .map_err(|error| file_error(py, path, error))
    }

    #[getter]
    fn recipient(&self) -> &str {
        self.0.recipient()
    }

    fn __repr__(&self) -> String {
        format!("<AgeKey {}>", self.0.recipient())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("AgeKey"))
    }
}

/// The key argument of the functions that open.
#[derive(FromPyObject)]
enum AnyKey<'py> {
    File(PyRef<'py, FileKey>),
    Age(PyRef<'py, AgeKey>),
}

impl AnyKey<'_> {
    fn handle(&self) -> OpenWith {
        match self {
            Self::File(key) => OpenWith::File(key.0.clone()),
            Self::Age(key) => OpenWith::Age(key.0.clone()),
        }
    }
}

/// What `age_seal` made.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct Sealed(sealing::Sealed);

#[pymethods]
impl Sealed {
    #[getter]
    fn file_key(&self) -> FileKey {
        FileKey(self.0.file_key.clone())
    }

    #[getter]
    fn digest(&self) -> String {
        self.0
            .digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.size
    }

    #[getter]
    fn plain_size(&self) -> u64 {
        self.0.plain_size
    }

    fn __repr__(&self) -> String {
        format!("<Sealed {} of {} bytes>", self.digest(), self.0.size)
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("Sealed"))
    }
}

#[pyfunction]
#[pyo3(signature = (source, target, recipients, progress=None))]
fn age_seal(
    py: Python<'_>,
    source: i32,
    target: i32,
    recipients: Vec<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Sealed> {
    let (source, target) = (file_of(py, source)?, file_of(py, target)?);
    let caller = Caller::new(progress);
    match py.detach(|| sealing::age_seal(source, target, &recipients, &caller)) {
        Ok(sealed) => Ok(Sealed(sealed)),
        Err(error) => Err(caller.error(py, error)),
    }
}

/// A sealed file: an open one, or its bytes.
#[derive(FromPyObject)]
enum Source {
    File(i32),
    Bytes(PyBackedBytes),
}

#[pyfunction]
fn age_open(
    py: Python<'_>,
    source: Source,
    target: i32,
    key: AnyKey<'_>,
    limit: u64,
) -> PyResult<u64> {
    let target = file_of(py, target)?;
    let (key, caller) = (key.handle(), Caller::new(None));
    let opened = match source {
        Source::File(source) => {
            let source = file_of(py, source)?;
            py.detach(|| sealing::age_open(source, target, &key, limit, &caller))
        }
        Source::Bytes(source) => {
            py.detach(|| sealing::age_open_bytes(&source, target, &key, limit, &caller))
        }
    };
    match opened {
        Ok(size) => Ok(size),
        Err(error) => Err(caller.error(py, error)),
    }
}

#[pyfunction]
fn age_file_key(py: Python<'_>, source: i32, key: PyRef<'_, AgeKey>) -> PyResult<FileKey> {
    let source = file_of(py, source)?;
    let (key, caller) = (key.0.clone(), Caller::new(None));
    match py.detach(|| sealing::age_file_key(source, &key, &caller)) {
        Ok(key) => Ok(FileKey(key)),
        Err(error) => Err(caller.error(py, error)),
    }
}

/// Random access to a sealed file by 64 KiB chunk.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct AgeReader(sealing::AgeReader);

#[pymethods]
impl AgeReader {
    #[new]
    fn new(py: Python<'_>, source: i32, key: AnyKey<'_>) -> PyResult<Self> {
        let source = file_of(py, source)?;
        let key = key.handle();
        py.detach(|| sealing::AgeReader::new(source, &key))
            .map(Self)
            .or_raise(py)
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let available = usize::try_from(self.0.available(offset, length))
            .map_err(|_| raise(py, "TooLarge", "the range does not fit into memory"))?;
        if available == 0 {
            return Ok(PyBytes::new(py, &[]));
        }
        PyBytes::new_with(py, available, |room| {
            py.detach(|| self.0.read_at(offset, room)).or_raise(py)
        })
    }

    fn __repr__(&self) -> String {
        format!("<AgeReader of {} bytes>", self.0.size())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("AgeReader"))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HpkeKey>()?;
    module.add_class::<FileKey>()?;
    module.add_class::<AgeKey>()?;
    module.add_class::<Sealed>()?;
    module.add_class::<AgeReader>()?;
    module.add_function(wrap_pyfunction!(hpke_wrap_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(age_seal, module)?)?;
    module.add_function(wrap_pyfunction!(age_open, module)?)?;
    module.add_function(wrap_pyfunction!(age_file_key, module)?)
}
