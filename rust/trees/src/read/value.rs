//! What documents are made of; arrays of numbers are kept as such.
use crate::model::{bad, Refused};
use std::borrow::Cow;
use std::collections::HashSet;

/// Deepest nesting of a document.
pub(crate) const LEVELS: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Integers(Vec<i64>),
    Reals(Vec<f64>),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Integers beyond this are no whole numbers in float64.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Value {
    /// An object, if no key stands twice.
    pub fn object(fields: Vec<(String, Value)>) -> Result<Self, Refused> {
        let mut seen = HashSet::new();
        if !fields.iter().all(|(key, _)| seen.insert(key.as_str())) {
            return bad("a key of an object stands twice");
        }
        drop(seen);
        Ok(Self::Object(fields))
    }

    pub fn field(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(fields) => fields
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Result<&Value, Refused> {
        self.field(key).map_or_else(
            || bad(format!("{key:?} is missing, or not in an object")),
            Ok,
        )
    }

    pub fn text(&self, key: &str) -> Result<&str, Refused> {
        match self.get(key)? {
            Self::Text(text) => Ok(text),
            _ => bad(format!("{key:?} is not text")),
        }
    }

    /// A number that is not negative, also as text.
    pub fn count(&self, key: &str) -> Result<usize, Refused> {
        let found = match self.get(key)? {
            Self::Integer(value) => usize::try_from(*value).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        };
        found.map_or_else(|| bad(format!("{key:?} is no number from 0 on")), Ok)
    }

    pub fn real(&self, key: &str) -> Result<f64, Refused> {
        match self.get(key)? {
            Self::Integer(value) => Ok(*value as f64),
            Self::Real(value) => Ok(*value),
            _ => bad(format!("{key:?} is not a number")),
        }
    }

    pub fn list(&self, key: &str) -> Result<&[Value], Refused> {
        match self.get(key)? {
            Self::List(values) => Ok(values),
            Self::Integers(values) if values.is_empty() => Ok(&[]),
            _ => bad(format!("{key:?} is not a list")),
        }
    }

    pub fn integers(&self, key: &str) -> Result<Cow<'_, [i64]>, Refused> {
        fn not<T>(key: &str) -> Result<T, Refused> {
            bad(format!("{key:?} is not a list of integers"))
        }
        match self.get(key)? {
            Self::Integers(values) => Ok(Cow::Borrowed(values)),
            Self::Reals(values) => {
                if values.iter().all(|x| x.fract() == 0.0 && x.abs() <= EXACT) {
                    Ok(values.iter().map(|value| *value as i64).collect())
                } else {
                    not(key)
                }
            }
            Self::List(values) => values
                .iter()
                .map(|value| match value {
                    Self::Bool(value) => Ok(i64::from(*value)),
                    _ => not(key),
                })
                .collect(),
            _ => not(key),
        }
    }

    pub fn reals(&self, key: &str) -> Result<Cow<'_, [f64]>, Refused> {
        match self.get(key)? {
            Self::Reals(values) => Ok(Cow::Borrowed(values)),
            Self::Integers(values) => Ok(values.iter().map(|value| *value as f64).collect()),
            _ => bad(format!("{key:?} is not a list of numbers")),
        }
    }

    /// Texts; none if there is no such key.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, Refused> {
        if self.field(key).is_none() {
            return Ok(Vec::new());
        }
        self.list(key)?
            .iter()
            .map(|value| match value {
                Self::Text(text) => Ok(text.clone()),
                _ => bad(format!("{key:?} is not a list of texts")),
            })
            .collect()
    }
}

/// An array that keeps numbers tightly.
#[derive(Default)]
pub(crate) struct Array {
    integers: Vec<i64>,
    reals: Vec<f64>,
    others: Vec<Value>,
}

impl Array {
    pub fn push(&mut self, value: Value) -> Result<(), Refused> {
        match value {
            Value::Integer(value) if self.others.is_empty() => {
                if self.reals.is_empty() {
                    self.integers.push(value);
                } else {
                    self.reals.push(value as f64);
                }
            }
            Value::Real(value) if self.others.is_empty() => {
                if self.reals.is_empty() {
                    let before = std::mem::take(&mut self.integers);
                    self.reals
                        .extend(before.into_iter().map(|value| value as f64));
                }
                self.reals.push(value);
            }
            value if self.integers.is_empty() && self.reals.is_empty() => self.others.push(value),
            _ => return bad("a list has numbers and something else"),
        }
        Ok(())
    }

    pub fn value(self) -> Value {
        if !self.others.is_empty() {
            Value::List(self.others)
        } else if !self.reals.is_empty() {
            Value::Reals(self.reals)
        } else {
            Value::Integers(self.integers)
        }
    }
}
