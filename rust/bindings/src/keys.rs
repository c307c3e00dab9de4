//! Keys by handle: secret keys and signing keys.
use crate::errors::{bytes_or_raise, file_error, key_error, not_copied, raise, OrRaise};
use mesatee_custody as custody;
use mesatee_sealing as sealing;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use std::fmt::Write;
use std::path::Path;

/// How many bytes of a public key its `repr` shows.
const SHOWN_BYTES: usize = 8;

/// Length of a secret key in bytes.
const KEY_BYTES: usize = 32;

/// The front of a public key, to tell keys apart in a log.
pub(crate) fn shown(class: &str, public: &[u8]) -> String {
    let mut text = format!("<{class} public ");
    for byte in public.iter().take(SHOWN_BYTES) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text + "...>"
}

/// A 32-byte key for AES-256-GCM.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct SecretKey(pub(crate) custody::SecretKey);

#[pymethods]
impl SecretKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        custody::SecretKey::generate().map(Self).or_raise(py)
    }

    /// Take a key over from a buffer, e.g. one that a TPM filled, and overwrite the buffer, whatever comes of it.
    #[staticmethod]
    fn adopt(py: Python<'_>, secret: &Bound<'_, PyByteArray>) -> PyResult<Self> {
        let mut taken = custody::SecretBytes::zeroed(KEY_BYTES)
            .ok_or_else(|| key_error(py, custody::KeyError::System))?;
        let len = secret.len();
        for index in 0..len {
            // Byte by byte, for no copy outside of our own pages is made on the way.
            if let Some(room) = taken.as_mut().get_mut(index) {
                *room = secret.get_item(index)?.extract()?;
            }
            secret.set_item(index, 0)?;
        }
        if len != KEY_BYTES {
            return Err(key_error(py, custody::KeyError::Malformed));
        }
        custody::SecretKey::from_bytes(taken).map(Self).or_raise(py)
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: &str) -> PyResult<Self> {
        py.detach(|| custody::SecretKey::load(Path::new(path)))
            .map(Self)
            .map_err(|error| file_error(py, path, error))
    }

    fn save(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        py.detach(|| self.0.save(Path::new(path)))
            .map_err(|error| file_error(py, path, error))
    }

    fn derive(&self, py: Python<'_>, label: &str) -> PyResult<Self> {
        self.0.derive(label).map(Self).or_raise(py)
    }

    /// 32 bytes that follow from key and label, for somebody who shall have them and not the key.
    fn derive_bytes<'py>(&self, py: Python<'py>, label: &str) -> PyResult<Bound<'py, PyBytes>> {
        self.0
            .derive_bytes(label, |bytes| PyBytes::new(py, bytes))
            .or_raise(py)
    }

    #[staticmethod]
    fn import_sealed(
        py: Python<'_>,
        sealed: &[u8],
        by: &SecretKey,
        context: &[u8],
    ) -> PyResult<Self> {
        custody::SecretKey::import_sealed(sealed, &by.0, context)
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

    fn wrap_to<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(
            py,
            py.detach(|| sealing::wrap_secret_key(&self.0, to, info, aad)),
        )
    }

    fn seal<'py>(
        &self,
        py: Python<'py>,
        plaintext: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(py, self.0.seal(plaintext, aad))
    }

    fn open<'py>(
        &self,
        py: Python<'py>,
        sealed: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let len = custody::SecretKey::plain_len(sealed).or_raise(py)?;
        PyBytes::new_with(py, len, |room| {
            self.0.open_into(sealed, aad, room).or_raise(py)
        })
    }

    fn __repr__(&self) -> &'static str {
        "<SecretKey>"
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("SecretKey"))
    }
}

/// An Ed25519 private key.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct SigningKey(pub(crate) custody::SigningKey);

#[pymethods]
impl SigningKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        custody::SigningKey::generate().map(Self).or_raise(py)
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: &str) -> PyResult<Self> {
        py.detach(|| custody::SigningKey::load(Path::new(path)))
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
        custody::SigningKey::import_sealed(sealed, &by.0, context)
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

    fn wrap_to<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(
            py,
            py.detach(|| sealing::wrap_signing_key(&self.0, to, info, aad)),
        )
    }

    #[getter]
    fn public<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.public())
    }

    fn sign<'py>(&self, py: Python<'py>, message: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.sign(message))
    }

    fn __repr__(&self) -> String {
        shown("SigningKey", &self.0.public())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("SigningKey"))
    }
}

#[pyfunction]
fn verify_ed25519(py: Python<'_>, public: &[u8], signature: &[u8], message: &[u8]) -> PyResult<()> {
    custody::verify_ed25519(public, signature, message).map_err(|error| match error {
        custody::KeyError::Malformed => {
            raise(py, "Malformed", "a key has 32 bytes and a signature 64")
        }
        other => key_error(py, other),
    })
}

#[pyfunction]
fn protect_process() -> Vec<&'static str> {
    custody::protect_process()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SecretKey>()?;
    module.add_class::<SigningKey>()?;
    module.add_function(wrap_pyfunction!(verify_ed25519, module)?)?;
    module.add_function(wrap_pyfunction!(protect_process, module)?)
}
