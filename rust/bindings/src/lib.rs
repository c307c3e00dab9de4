//! Thin Python bindings of the Rust core (`mesatee._core`).
use pyo3::prelude::*;

/// The memory-safe core.
#[pymodule]
fn _core(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
