//! Bindings of `mesatee-strictjson`.
use crate::errors::raise;
use mesatee_strictjson::{parse, Integers, JsonError, Value};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use std::fmt::Write;

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

/// The canonical text of a value: keys by code point, no white space, numbers as Python shows them.
#[pyfunction]
fn write_json<'py>(
    py: Python<'py>,
    value: &Bound<'py, PyAny>,
    max_depth: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut text = String::new();
    write(py, &mut text, value, max_depth, max_depth)?;
    Ok(PyBytes::new(py, text.as_bytes()))
}

/// The recursion is as deep as `levels`, which are left of `depth`.
fn write(
    py: Python<'_>,
    text: &mut String,
    value: &Bound<'_, PyAny>,
    levels: usize,
    depth: usize,
) -> PyResult<()> {
    let inner = || {
        levels.checked_sub(1).ok_or_else(|| {
            let reason = format!("JSON deeper than {depth} levels");
            raise(py, "TooLarge", reason)
        })
    };
    if let Ok(found) = value.cast::<PyString>() {
        quote(text, utf8(py, found)?);
        Ok(())
    } else if let Ok(found) = value.cast::<PyDict>() {
        let inner = inner()?;
        let mut entries = Vec::with_capacity(found.len());
        for (key, item) in found.iter() {
            let Ok(key) = key.cast_into::<PyString>() else {
                return Err(raise(py, "Malformed", "a key that is not a string"));
            };
            entries.push((utf8(py, &key)?.to_owned(), item));
        }
        // Bytes of UTF-8 are in the order of code points.
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        text.push('{');
        for (number, (key, item)) in entries.iter().enumerate() {
            if number > 0 {
                text.push(',');
            }
            quote(text, key);
            text.push(':');
            write(py, text, item, inner, depth)?;
        }
        text.push('}');
        Ok(())
    } else if let Ok(found) = value.cast::<PyList>() {
        write_items(py, text, found.iter(), inner()?, depth)
    } else if let Ok(found) = value.cast::<PyTuple>() {
        write_items(py, text, found.iter(), inner()?, depth)
    } else if value.is_none() {
        text.push_str("null");
        Ok(())
    } else if let Ok(found) = value.cast::<PyBool>() {
        text.push_str(if found.is_true() { "true" } else { "false" });
        Ok(())
    } else if value.is_instance_of::<PyInt>() {
        let Ok(number) = value.extract::<i64>() else {
            return Err(raise(py, "Malformed", "an integer outside of 64 bits"));
        };
        write!(text, "{number}").expect("a string takes any text");
        Ok(())
    } else if let Ok(found) = value.cast::<PyFloat>() {
        let number = found.value();
        if !number.is_finite() {
            return Err(raise(py, "Malformed", "a number that is not finite"));
        }
        // Also for what is more than a float, as numpy's are, which show themselves in another way.
        let shown = PyFloat::new(py, number).repr()?;
        text.push_str(shown.to_str()?);
        Ok(())
    } else {
        let kind = value.get_type().name()?;
        let reason = format!("a value of type {kind} has no JSON form");
        Err(raise(py, "Malformed", reason))
    }
}

fn write_items<'py>(
    py: Python<'py>,
    text: &mut String,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    levels: usize,
    depth: usize,
) -> PyResult<()> {
    text.push('[');
    for (number, item) in items.enumerate() {
        if number > 0 {
            text.push(',');
        }
        write(py, text, &item, levels, depth)?;
    }
    text.push(']');
    Ok(())
}

fn utf8<'a>(py: Python<'_>, value: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    value.to_str().map_err(|_| {
        raise(
            py,
            "Malformed",
            "a string has a surrogate that stands alone",
        )
    })
}

fn quote(text: &mut String, value: &str) {
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    text.push('"');
    let mut rest = value;
    // Looked at whole, for most have none of them, and a loop that never leaves early is a fast one.
    if value.bytes().fold(false, |any, byte| any | special(byte)) {
        while let Some(at) = rest.bytes().position(special) {
            text.push_str(&rest[..at]);
            match rest.as_bytes()[at] {
                b'"' => text.push_str("\\\""),
                b'\\' => text.push_str("\\\\"),
                b'\n' => text.push_str("\\n"),
                b'\r' => text.push_str("\\r"),
                b'\t' => text.push_str("\\t"),
                0x08 => text.push_str("\\b"),
                0x0c => text.push_str("\\f"),
                other => write!(text, "\\u{other:04x}").expect("a string takes any text"),
            }
            rest = &rest[at + 1..];
        }
    }
    text.push_str(rest);
    text.push('"');
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_json, module)?)?;
    module.add_function(wrap_pyfunction!(write_json, module)?)
}
