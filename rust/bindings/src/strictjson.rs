//! Bindings of `mesatee-strictjson`.
use crate::errors::raise;
use mesatee_strictjson::{parse, Integers, JsonError, Value};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

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
        Ok(value) => Converter::default().convert(py, value),
        Err(JsonError::Malformed(text)) => Err(raise(py, "Malformed", text)),
        Err(JsonError::TooLarge(text)) => Err(raise(py, "TooLarge", text)),
    }
}

/// Keys that are made once for a text, of the first that occur; lists of objects have the same few again and again.
const KEYS_SHARED: usize = 16;

#[derive(Default)]
struct Converter<'py> {
    keys: Vec<(String, Bound<'py, PyString>)>,
}

impl<'py> Converter<'py> {
    fn key(&mut self, py: Python<'py>, name: String) -> Bound<'py, PyString> {
        if let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == name) {
            return key.clone();
        }
        let key = PyString::new(py, &name);
        if self.keys.len() < KEYS_SHARED {
            self.keys.push((name, key.clone()));
        }
        key
    }

    /// The recursion is as deep as the value, which the parser bounds.
    fn convert(&mut self, py: Python<'py>, value: Value) -> PyResult<Bound<'py, PyAny>> {
        Ok(match value {
            Value::Null => py.None().into_bound(py),
            Value::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
            Value::Int(value) => value.into_pyobject(py)?.into_any(),
            Value::Unsigned(value) => value.into_pyobject(py)?.into_any(),
            Value::Float(value) => value.into_pyobject(py)?.into_any(),
            Value::String(value) => value.into_pyobject(py)?.into_any(),
            Value::Array(items) => {
                let found: PyResult<Vec<_>> = items
                    .into_iter()
                    .map(|item| self.convert(py, item))
                    .collect();
                PyList::new(py, found?)?.into_any()
            }
            Value::Object(entries) => {
                let dict = PyDict::new(py);
                for (key, item) in entries {
                    dict.set_item(self.key(py, key), self.convert(py, item)?)?;
                }
                dict.into_any()
            }
        })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_json, module)?)
}
