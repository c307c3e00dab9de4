//! Bindings of `mesatee-merkle`.
use crate::errors::raise;
use mesatee_merkle as merkle;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

#[pyfunction]
fn merkle_leaves<'py>(py: Python<'py>, entries: Vec<PyBackedBytes>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &py.detach(|| merkle::leaves(&entries)))
}

#[pyfunction]
fn merkle_nodes<'py>(py: Python<'py>, pairs: PyBackedBytes) -> PyResult<Bound<'py, PyBytes>> {
    match py.detach(|| merkle::nodes(&pairs)) {
        Some(found) => Ok(PyBytes::new(py, &found)),
        None => Err(raise(py, "Malformed", "hashes that are not whole pairs")),
    }
}

#[pyfunction]
fn first_altered_body(
    py: Python<'_>,
    entries: Vec<PyBackedBytes>,
    bodies: Vec<PyBackedBytes>,
) -> Option<usize> {
    py.detach(|| merkle::first_altered(&entries, &bodies))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(merkle_leaves, module)?)?;
    module.add_function(wrap_pyfunction!(merkle_nodes, module)?)?;
    module.add_function(wrap_pyfunction!(first_altered_body, module)?)
}
