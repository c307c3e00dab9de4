//! Universal Binary JSON, draft 12, as XGBoost writes it: without high-precision numbers.
use super::value::{Array, Value, LEVELS};
use crate::model::{bad, Refused};

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

/// The document; nothing may follow it.
pub(crate) fn parse(data: &[u8]) -> Result<Value, Refused> {
    let mut reader = Reader { data, at: 0 };
    let kind = reader.byte()?;
    let found = reader.value(kind, LEVELS)?;
    if reader.at != data.len() {
        return reader.wrong("something follows the document");
    }
    Ok(found)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(bytes);
    found
}

/// Bytes of a number of this kind.
fn size(kind: u8) -> Option<usize> {
    match kind {
        b'i' | b'U' => Some(1),
        b'I' => Some(2),
        b'l' | b'd' => Some(4),
        b'L' | b'D' => Some(8),
        _ => None,
    }
}

fn integer(kind: u8, bytes: &[u8]) -> i64 {
    match kind {
        b'i' => i8::from_be_bytes(array(bytes)).into(),
        b'U' => bytes[0].into(),
        b'I' => i16::from_be_bytes(array(bytes)).into(),
        b'l' => i32::from_be_bytes(array(bytes)).into(),
        _ => i64::from_be_bytes(array(bytes)),
    }
}

fn real(kind: u8, bytes: &[u8]) -> f64 {
    if kind == b'd' {
        f32::from_be_bytes(array(bytes)).into()
    } else {
        f64::from_be_bytes(array(bytes))
    }
}

impl<'a> Reader<'a> {
    fn wrong<T>(&self, what: &str) -> Result<T, Refused> {
        bad(format!("UBJ at byte {}: {what}", self.at))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let Some(found) = self.data[self.at..].get(..count) else {
            return self.wrong("it ends early");
        };
        self.at += count;
        Ok(found)
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    fn length(&mut self) -> Result<usize, Refused> {
        let kind = self.byte()?;
        let found = match (kind, size(kind)) {
            (b'd' | b'D', _) | (_, None) => None,
            (_, Some(size)) => usize::try_from(integer(kind, self.take(size)?)).ok(),
        };
        found.map_or_else(|| self.wrong("a length is wrong"), Ok)
    }

    fn text(&mut self) -> Result<String, Refused> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.wrong("a text is not UTF-8"),
        }
    }

    fn value(&mut self, kind: u8, levels: usize) -> Result<Value, Refused> {
        if levels == 0 {
            return self.wrong("it is nested too deeply");
        }
        Ok(match kind {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'S' => Value::Text(self.text()?),
            b'C' => Value::Text(char::from(self.byte()? & 0x7F).to_string()),
            b'd' | b'D' => {
                let size = size(kind).unwrap_or(8);
                Value::Real(real(kind, self.take(size)?))
            }
            b'[' => self.array(levels)?,
            b'{' => self.object(levels)?,
            _ => match size(kind) {
                Some(size) => Value::Integer(integer(kind, self.take(size)?)),
                None => return self.wrong("no value begins like this"),
            },
        })
    }

    /// The kind of all values, and how many there are, if that is said before them.
    fn bounds(&mut self) -> Result<(Option<u8>, Option<usize>), Refused> {
        let mut kind = None;
        if self.peek() == Some(b'$') {
            self.at += 1;
            kind = Some(self.byte()?);
        }
        if self.peek() != Some(b'#') {
            return if kind.is_some() {
                self.wrong("values of one kind are not counted")
            } else {
                Ok((None, None))
            };
        }
        self.at += 1;
        Ok((kind, Some(self.length()?)))
    }

    fn array(&mut self, levels: usize) -> Result<Value, Refused> {
        let (kind, count) = self.bounds()?;
        if let (Some(kind), Some(count)) = (kind, count) {
            let Some(size) = size(kind) else {
                return self.wrong("a list of one kind is not one of numbers");
            };
            let Some(bytes) = count.checked_mul(size) else {
                return self.wrong("it ends early");
            };
            let parts = self.take(bytes)?.chunks_exact(size);
            return Ok(if matches!(kind, b'd' | b'D') {
                Value::Reals(parts.map(|bytes| real(kind, bytes)).collect())
            } else {
                Value::Integers(parts.map(|bytes| integer(kind, bytes)).collect())
            });
        }
        let mut found = Array::default();
        let mut number = 0;
        while count.is_none_or(|count| number < count) {
            let kind = self.byte()?;
            if kind == b']' && count.is_none() {
                break;
            }
            found.push(self.value(kind, levels - 1)?)?;
            number += 1;
        }
        Ok(found.value())
    }

    fn object(&mut self, levels: usize) -> Result<Value, Refused> {
        let (kind, count) = self.bounds()?;
        if kind.is_some() {
            return self.wrong("an object says the kind of its values");
        }
        let mut found = Vec::new();
        while count.is_none_or(|count| found.len() < count) {
            if count.is_none() && self.peek() == Some(b'}') {
                self.at += 1;
                break;
            }
            let key = self.text()?;
            let kind = self.byte()?;
            found.push((key, self.value(kind, levels - 1)?));
        }
        Value::object(found)
    }
}
