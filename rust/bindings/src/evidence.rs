//! Bindings of `mesatee-evidence`.
use crate::errors::raise;
use mesatee_evidence::{self as evidence, Certificate, EvidenceError, Extension};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet};

fn refusal(py: Python<'_>, error: EvidenceError) -> PyErr {
    match error {
        EvidenceError::Malformed(text) => raise(py, "Malformed", text),
        EvidenceError::TooLarge(text) => raise(py, "TooLarge", text),
        EvidenceError::Unsupported(text) => raise(py, "UnsupportedVersion", text),
        EvidenceError::SignatureInvalid(text) => raise(py, "SignatureInvalid", text),
    }
}

#[pyfunction]
fn verify_signature(
    py: Python<'_>,
    algorithm: &str,
    spki: &[u8],
    signature: &[u8],
    message: &[u8],
) -> PyResult<()> {
    py.detach(|| evidence::verify_signature(algorithm, spki, signature, message))
        .map_err(|error| refusal(py, error))
}

#[pyfunction]
fn verify_lasting_signature(
    py: Python<'_>,
    algorithm: &str,
    spki: &[u8],
    signature: &[u8],
    message: &[u8],
) -> PyResult<()> {
    py.detach(|| evidence::verify_lasting_signature(algorithm, spki, signature, message))
        .map_err(|error| refusal(py, error))
}

#[pyfunction]
fn forget_signatures() {
    evidence::forget_signatures();
}

#[pyfunction]
fn spki_from_point<'py>(
    py: Python<'py>,
    curve: &str,
    point: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    match evidence::spki_from_point(curve, point) {
        Ok(spki) => Ok(PyBytes::new(py, &spki)),
        Err(error) => Err(refusal(py, error)),
    }
}

#[pyfunction]
fn spki_from_rsa<'py>(
    py: Python<'py>,
    modulus: &[u8],
    exponent: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    match evidence::spki_from_rsa(modulus, exponent) {
        Ok(spki) => Ok(PyBytes::new(py, &spki)),
        Err(error) => Err(refusal(py, error)),
    }
}

#[pyfunction]
fn pem_certificates<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    match py.detach(|| evidence::pem_certificates(text)) {
        Ok(found) => Ok(found.iter().map(|der| PyBytes::new(py, der)).collect()),
        Err(error) => Err(refusal(py, error)),
    }
}

/// Identifier -> (critical, value), in the certificate's order.
fn extensions<'py>(py: Python<'py>, list: &[Extension]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (id, critical, value) in list {
        out.set_item(id, (*critical, PyBytes::new(py, value)))?;
    }
    Ok(out)
}

#[pyclass(frozen, module = "mesatee._core")]
struct X509(Certificate);

#[pymethods]
impl X509 {
    #[staticmethod]
    #[pyo3(signature = (der, lenient = false))]
    fn parse(py: Python<'_>, der: &[u8], lenient: bool) -> PyResult<X509> {
        Certificate::parse(der, lenient)
            .map(X509)
            .map_err(|error| refusal(py, error))
    }

    #[getter]
    fn der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.der)
    }

    #[getter]
    fn tbs<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.tbs)
    }

    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.signature)
    }

    #[getter]
    fn signature_algorithm(&self) -> &str {
        &self.0.signature_algorithm
    }

    #[getter]
    fn spki<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.spki)
    }

    #[getter]
    fn subject(&self) -> &str {
        &self.0.subject
    }

    #[getter]
    fn issuer(&self) -> &str {
        &self.0.issuer
    }

    #[getter]
    fn subject_der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.subject_der)
    }

    #[getter]
    fn issuer_der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.issuer_der)
    }

    #[getter]
    fn serial<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.serial)
    }

    #[getter]
    fn not_before(&self) -> i64 {
        self.0.not_before
    }

    #[getter]
    fn not_after(&self) -> i64 {
        self.0.not_after
    }

    #[getter]
    fn is_ca(&self) -> Option<bool> {
        self.0.is_ca
    }

    #[getter]
    fn path_length(&self) -> Option<u32> {
        self.0.path_length
    }

    #[getter]
    fn key_usage(&self) -> Option<u16> {
        self.0.key_usage
    }

    #[getter]
    fn extensions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        extensions(py, &self.0.extensions)
    }

    fn __repr__(&self) -> String {
        format!("<X509 {}>", self.0.subject)
    }
}

#[pyclass(frozen, module = "mesatee._core")]
struct X509Crl(evidence::Crl);

#[pymethods]
impl X509Crl {
    #[staticmethod]
    fn parse(py: Python<'_>, der: &[u8]) -> PyResult<X509Crl> {
        py.detach(|| evidence::Crl::parse(der))
            .map(X509Crl)
            .map_err(|error| refusal(py, error))
    }

    #[getter]
    fn issuer(&self) -> &str {
        &self.0.issuer
    }

    #[getter]
    fn issuer_der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.issuer_der)
    }

    #[getter]
    fn this_update(&self) -> i64 {
        self.0.this_update
    }

    #[getter]
    fn next_update(&self) -> Option<i64> {
        self.0.next_update
    }

    fn revokes(&self, serial: &[u8]) -> bool {
        self.0.revoked.contains(serial)
    }

    #[getter]
    fn revoked<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(
            py,
            self.0.revoked.iter().map(|serial| PyBytes::new(py, serial)),
        )
    }

    #[getter]
    fn extensions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        extensions(py, &self.0.extensions)
    }

    #[getter]
    fn tbs<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.tbs)
    }

    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.signature)
    }

    #[getter]
    fn signature_algorithm(&self) -> &str {
        &self.0.signature_algorithm
    }

    fn __repr__(&self) -> String {
        format!("<X509Crl {}>", self.0.issuer)
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<X509>()?;
    module.add_class::<X509Crl>()?;
    module.add_function(wrap_pyfunction!(verify_signature, module)?)?;
    module.add_function(wrap_pyfunction!(verify_lasting_signature, module)?)?;
    module.add_function(wrap_pyfunction!(forget_signatures, module)?)?;
    module.add_function(wrap_pyfunction!(spki_from_point, module)?)?;
    module.add_function(wrap_pyfunction!(spki_from_rsa, module)?)?;
    module.add_function(wrap_pyfunction!(pem_certificates, module)?)
}
