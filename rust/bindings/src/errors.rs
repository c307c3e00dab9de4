//! Raising the classes of `mesatee.errors`.
use mesatee_custody::{FileError, KeyError};
use mesatee_sealing::{Reject, SealingError};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

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

/// A failure with the key file `path`.
pub(crate) fn file_error(py: Python<'_>, path: &str, error: FileError) -> PyErr {
    let (class, reason) = match error {
        FileError::NotFound => ("NotFound", "there is no such file or folder".to_owned()),
        FileError::Exists => ("Conflict", "the file exists already".to_owned()),
        FileError::Refused(reason) => ("KeyRefused", reason.to_owned()),
        FileError::Malformed(reason) => ("Malformed", reason.to_owned()),
        FileError::Io(error) => ("HostFailed", error.to_string()),
    };
    raise(py, class, format!("key file {path}: {reason}"))
}

/// A failure with a key or with a record that it sealed.
pub(crate) fn key_error(py: Python<'_>, error: KeyError) -> PyErr {
    let (class, text) = match error {
        KeyError::Malformed => ("Malformed", "not a key of this kind"),
        KeyError::SignatureInvalid => ("SignatureInvalid", "the signature does not verify"),
        KeyError::Corrupt => (
            "SealedDataCorrupt",
            "the record was altered, cut, or sealed by another key or for another purpose",
        ),
        KeyError::System => ("Unavailable", "the system gave no memory or randomness"),
    };
    raise(py, class, text)
}

/// A failure of sealing or opening.
pub(crate) fn sealing_error(py: Python<'_>, error: SealingError) -> PyErr {
    let class = match &error {
        SealingError::Rejected(Reject::Malformed, _) => "Malformed",
        SealingError::Rejected(Reject::TooLarge, _) => "TooLarge",
        SealingError::Rejected(Reject::Corrupt, _) => "SealedDataCorrupt",
        SealingError::Rejected(Reject::KeyRefused, _) => "KeyRefused",
        SealingError::Io(..) => "HostFailed",
        SealingError::Stopped => "Unavailable",
    };
    raise(py, class, error.to_string())
}

/// Results of our crates, as Python has them.
pub(crate) trait OrRaise<T> {
    /// The value, or the exception that the failure becomes.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, KeyError> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| key_error(py, error))
    }
}

impl<T> OrRaise<T> for Result<T, SealingError> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| sealing_error(py, error))
    }
}

/// Bytes that were made, or the exception.
pub(crate) fn bytes_or_raise<'py, E>(
    py: Python<'py>,
    made: Result<Vec<u8>, E>,
) -> PyResult<Bound<'py, PyBytes>>
where
    Result<Vec<u8>, E>: OrRaise<Vec<u8>>,
{
    made.or_raise(py).map(|bytes| PyBytes::new(py, &bytes))
}

/// The answer to `pickle`, `copy` and `deepcopy`: a secret has one place.
pub(crate) fn not_copied(class: &str) -> PyErr {
    PyTypeError::new_err(format!("{class} cannot be copied or pickled"))
}
