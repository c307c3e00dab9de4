//! Bindings of `mesatee-crypto`.
use crate::errors::raise;
use mesatee_crypto::{self as crypto, CryptoError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

fn refusal(py: Python<'_>, error: CryptoError) -> PyErr {
    match error {
        // Whether the bytes are no key or do not open is the same to a function: its input is wrong.
        CryptoError::Malformed(text) | CryptoError::Refused(text) => raise(py, "Malformed", text),
        CryptoError::TooLarge(text) => raise(py, "TooLarge", text),
    }
}

#[pyfunction]
fn rsa_signature<'py>(
    py: Python<'py>,
    algorithm: &str,
    key: &[u8],
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    py.detach(|| crypto::sign(algorithm, key, message))
        .map(|made| PyBytes::new(py, &made))
        .map_err(|error| refusal(py, error))
}

#[pyfunction]
fn aead_open<'py>(
    py: Python<'py>,
    cipher: &str,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let len = crypto::plain_len(sealed).map_err(|error| refusal(py, error))?;
    PyBytes::new_with(py, len, |room| {
        py.detach(|| crypto::open_into(cipher, key, nonce, aad, sealed, room))
            .map_err(|error| refusal(py, error))
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(rsa_signature, module)?)?;
    module.add_function(wrap_pyfunction!(aead_open, module)?)
}
