//! Raising the classes of `mesatee.errors`.
use pyo3::prelude::*;
use pyo3::types::PyType;

/// An exception of the class `mesatee.errors.<class>`.
pub(crate) fn raise(py: Python<'_>, class: &str, message: impl Into<String>) -> PyErr {
    let found = py
        .import("mesatee.errors")
        .and_then(|module| module.getattr(class))
        .and_then(|value| value.cast_into::<PyType>().map_err(PyErr::from));
    match found {
        Ok(kind) => PyErr::from_type(kind, (message.into(),)),
        Err(error) => error,
    }
}
