//! Bindings of the shares of `mesatee-sealing`.
use crate::errors::{bytes_or_raise, not_copied, OrRaise};
use crate::keys::SecretKey;
use crate::sealing::{AgeKey, HpkeKey};
use mesatee_sealing as sealing;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// One holder's share of a key.
#[pyclass(frozen, module = "mesatee._core")]
pub(crate) struct Share(sealing::Share);

#[pymethods]
impl Share {
    #[staticmethod]
    fn open(py: Python<'_>, sealed: &[u8], key: &AgeKey) -> PyResult<Self> {
        py.detach(|| sealing::Share::open(sealed, &key.0))
            .map(Self)
            .or_raise(py)
    }

    #[staticmethod]
    fn unwrap(
        py: Python<'_>,
        by: &HpkeKey,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Self> {
        py.detach(|| sealing::Share::unwrap(&by.0, wrap, info, aad))
            .map(Self)
            .or_raise(py)
    }

    fn wrap<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        bytes_or_raise(py, py.detach(|| self.0.wrap(to, info, aad)))
    }

    #[getter]
    fn index(&self) -> u8 {
        self.0.index()
    }

    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.context())
    }

    #[getter]
    fn commitment<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.commitment())
    }

    fn __repr__(&self) -> String {
        format!("<Share {}>", self.0.index())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(not_copied("Share"))
    }
}

/// What is made for each holder: number, commitment and age file.
type Made<'py> = Vec<(u8, Bound<'py, PyBytes>, Bound<'py, PyBytes>)>;

#[pyfunction]
fn split_key<'py>(
    py: Python<'py>,
    key: &SecretKey,
    k: u8,
    recipients: Vec<String>,
    context: &[u8],
) -> PyResult<Made<'py>> {
    let made = py
        .detach(|| sealing::split(&key.0, k, &recipients, context))
        .or_raise(py)?;
    Ok(made
        .iter()
        .map(|share| {
            (
                share.index,
                PyBytes::new(py, &share.commitment),
                PyBytes::new(py, &share.sealed),
            )
        })
        .collect())
}

#[pyfunction]
fn combine_shares(py: Python<'_>, k: u8, shares: Vec<PyRef<'_, Share>>) -> PyResult<SecretKey> {
    let shares: Vec<sealing::Share> = shares.iter().map(|share| share.0.clone()).collect();
    py.detach(|| sealing::combine(k, &shares))
        .map(SecretKey)
        .or_raise(py)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Share>()?;
    module.add_function(wrap_pyfunction!(split_key, module)?)?;
    module.add_function(wrap_pyfunction!(combine_shares, module)?)
}
