//! Signing keys by handle.
use crate::errors::raise;
use mesatee_custody as custody;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// An Ed25519 private key.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct SigningKey(pub(crate) custody::SigningKey);

#[pymethods]
impl SigningKey {
    #[staticmethod]
    fn generate(py: Python<'_>) -> PyResult<Self> {
        custody::SigningKey::generate()
            .map(Self)
            .map_err(|_| raise(py, "Unavailable", "the system gave no memory or randomness"))
    }

    #[getter]
    fn public<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.public())
    }

    fn sign<'py>(&self, py: Python<'py>, message: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.sign(message))
    }
}

#[pyfunction]
fn verify_ed25519(py: Python<'_>, public: &[u8], signature: &[u8], message: &[u8]) -> PyResult<()> {
    custody::verify_ed25519(public, signature, message).map_err(|error| match error {
        custody::KeyError::SignatureInvalid => raise(py, "SignatureInvalid", "the signature does not verify"),
        _ => raise(py, "Malformed", "a key has 32 bytes and a signature 64"),
    })
}

#[pyfunction]
fn protect_process() -> Vec<&'static str> {
    custody::protect_process()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SigningKey>()?;
    module.add_function(wrap_pyfunction!(verify_ed25519, module)?)?;
    module.add_function(wrap_pyfunction!(protect_process, module)?)
}
