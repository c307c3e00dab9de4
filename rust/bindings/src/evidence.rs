//! Bindings of `mesatee-evidence`.
use crate::errors::raise;
use mesatee_evidence::{self as evidence, Certificate, EvidenceError, Extension};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyString};

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

/// A certificate. What is asked for again and again is made once: bytes of Python remember their hash, too.
#[pyclass(frozen, module = "mesatee._core")]
struct X509 {
    inner: Certificate,
    #[pyo3(get)]
    der: Py<PyBytes>,
    #[pyo3(get)]
    tbs: Py<PyBytes>,
    #[pyo3(get)]
    signature: Py<PyBytes>,
    #[pyo3(get)]
    signature_algorithm: Py<PyString>,
    #[pyo3(get)]
    spki: Py<PyBytes>,
    #[pyo3(get)]
    subject: Py<PyString>,
    #[pyo3(get)]
    issuer: Py<PyString>,
    #[pyo3(get)]
    subject_der: Py<PyBytes>,
    #[pyo3(get)]
    issuer_der: Py<PyBytes>,
    #[pyo3(get)]
    serial: Py<PyBytes>,
}

#[pymethods]
impl X509 {
    #[staticmethod]
    #[pyo3(signature = (der, lenient = false))]
    fn parse(py: Python<'_>, der: &[u8], lenient: bool) -> PyResult<X509> {
        let inner = Certificate::parse(der, lenient).map_err(|error| refusal(py, error))?;
        let bytes = |value: &[u8]| PyBytes::new(py, value).unbind();
        let text = |value: &str| PyString::new(py, value).unbind();
        Ok(X509 {
            der: bytes(&inner.der),
            tbs: bytes(&inner.tbs),
            signature: bytes(&inner.signature),
            signature_algorithm: text(&inner.signature_algorithm),
            spki: bytes(&inner.spki),
            subject: text(&inner.subject),
            issuer: text(&inner.issuer),
            subject_der: bytes(&inner.subject_der),
            issuer_der: bytes(&inner.issuer_der),
            serial: bytes(&inner.serial),
            inner,
        })
    }

    #[getter]
    fn not_before(&self) -> i64 {
        self.inner.not_before
    }

    #[getter]
    fn not_after(&self) -> i64 {
        self.inner.not_after
    }

    #[getter]
    fn is_ca(&self) -> Option<bool> {
        self.inner.is_ca
    }

    #[getter]
    fn path_length(&self) -> Option<u32> {
        self.inner.path_length
    }

    #[getter]
    fn key_usage(&self) -> Option<u16> {
        self.inner.key_usage
    }

    #[getter]
    fn extensions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        extensions(py, &self.inner.extensions)
    }

    fn __repr__(&self) -> String {
        format!("<X509 {}>", self.inner.subject)
    }
}

#[pyclass(frozen, module = "mesatee._core")]
struct X509Crl {
    inner: evidence::Crl,
    #[pyo3(get)]
    issuer: Py<PyString>,
    #[pyo3(get)]
    issuer_der: Py<PyBytes>,
    #[pyo3(get)]
    tbs: Py<PyBytes>,
    #[pyo3(get)]
    signature: Py<PyBytes>,
    #[pyo3(get)]
    signature_algorithm: Py<PyString>,
}

#[pymethods]
impl X509Crl {
    #[staticmethod]
    fn parse(py: Python<'_>, der: &[u8]) -> PyResult<X509Crl> {
        let inner = py
            .detach(|| evidence::Crl::parse(der))
            .map_err(|error| refusal(py, error))?;
        Ok(X509Crl {
            issuer: PyString::new(py, &inner.issuer).unbind(),
            issuer_der: PyBytes::new(py, &inner.issuer_der).unbind(),
            tbs: PyBytes::new(py, &inner.tbs).unbind(),
            signature: PyBytes::new(py, &inner.signature).unbind(),
            signature_algorithm: PyString::new(py, &inner.signature_algorithm).unbind(),
            inner,
        })
    }

    #[getter]
    fn this_update(&self) -> i64 {
        self.inner.this_update
    }

    #[getter]
    fn next_update(&self) -> Option<i64> {
        self.inner.next_update
    }

    fn revokes(&self, serial: &[u8]) -> bool {
        self.inner.revoked.contains(serial)
    }

    #[getter]
    fn revoked<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(
            py,
            self.inner
                .revoked
                .iter()
                .map(|serial| PyBytes::new(py, serial)),
        )
    }

    #[getter]
    fn extensions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        extensions(py, &self.inner.extensions)
    }

    fn __repr__(&self) -> String {
        format!("<X509Crl {}>", self.inner.issuer)
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
