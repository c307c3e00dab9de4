//! Bindings of `mesatee-strictjson`.
use crate::errors::raise;
use mesatee_strictjson::{parse, Integers, JsonError, Value};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// Shorter texts are parsed faster than the interpreter's lock is given up and taken again, in bytes.
const DETACH_BYTES: usize = 16 * 1024;

#[pyfunction]
#[pyo3(signature = (data, max_bytes, max_depth, *, foreign = false))]
fn parse_json<'py>(
    py: Python<'py>,
    data: &[u8],
    max_bytes: usize,
    max_depth: usize,
    foreign: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let integers = if foreign {
        Integers::Foreign
    } else {
        Integers::Signed
    };
    let parsed = if data.len() > DETACH_BYTES {
        py.detach(|| parse(data, max_bytes, max_depth, integers))
    } else {
        parse(data, max_bytes, max_depth, integers)
    };
    match parsed {
        Ok(value) => convert(py, value),
        Err(JsonError::Malformed(text)) => Err(raise(py, "Malformed", text)),
        Err(JsonError::TooLarge(text)) => Err(raise(py, "TooLarge", text)),
    }
}

/// The recursion is as deep as the value, which the parser bounds.
fn convert(py: Python<'_>, value: Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Value::Int(value) => value.into_pyobject(py)?.into_any(),
        Value::Unsigned(value) => value.into_pyobject(py)?.into_any(),
        Value::Float(value) => value.into_pyobject(py)?.into_any(),
        Value::String(value) => value.into_pyobject(py)?.into_any(),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(convert(py, item)?)?;
            }
            list.into_any()
        }
        Value::Object(entries) => {
            let dict = PyDict::new(py);
            for (key, item) in entries {
                dict.set_item(key, convert(py, item)?)?;
            }
            dict.into_any()
        }
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_json, module)?)
}
