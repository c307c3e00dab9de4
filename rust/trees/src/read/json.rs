//! JSON (RFC 8259), and the words `NaN` and `Infinity` that XGBoost writes for numbers.
use super::value::{Array, Value, LEVELS};
use crate::model::{bad, Refused};

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

/// The document; nothing may follow it.
pub(crate) fn parse(data: &[u8]) -> Result<Value, Refused> {
    let mut reader = Reader { data, at: 0 };
    let found = reader.value(LEVELS)?;
    if reader.peek().is_some() {
        return reader.wrong("something follows the document");
    }
    Ok(found)
}

impl Reader<'_> {
    fn wrong<T>(&self, what: &str) -> Result<T, Refused> {
        bad(format!("JSON at byte {}: {what}", self.at))
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.data.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Refused> {
        if self.data[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        self.wrong("no value begins like this")
    }

    fn value(&mut self, levels: usize) -> Result<Value, Refused> {
        if levels == 0 {
            return self.wrong("it is nested too deeply");
        }
        match self.peek() {
            Some(b'{') => self.object(levels),
            Some(b'[') => self.array(levels),
            Some(b'"') => self.string().map(Value::Text),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'N') => self.word("NaN", Value::Real(f64::NAN)),
            Some(b'I') => self.word("Infinity", Value::Real(f64::INFINITY)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.wrong("no value begins like this"),
            None => self.wrong("it ends early"),
        }
    }

    fn number(&mut self) -> Result<Value, Refused> {
        if self.data[self.at..].starts_with(b"-Infinity") {
            return self.word("-Infinity", Value::Real(f64::NEG_INFINITY));
        }
        let rest = &self.data[self.at..];
        let length = rest
            .iter()
            .position(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
            .unwrap_or(rest.len());
        let digits = rest.strip_prefix(b"-").unwrap_or(rest);
        if matches!(digits, [b'0', b'0'..=b'9', ..])
            || !digits.first().is_some_and(u8::is_ascii_digit)
        {
            return self.wrong("a number is wrong");
        }
        let Ok(text) = std::str::from_utf8(&rest[..length]) else {
            return self.wrong("a number is wrong");
        };
        let whole = !text.contains(['.', 'e', 'E']);
        let found = if whole {
            text.parse().map(Value::Integer).ok()
        } else if text.ends_with('.') || text.contains(".e") || text.contains(".E") {
            None
        } else {
            text.parse().map(Value::Real).ok()
        };
        let Some(found) = found else {
            return self.wrong("a number is wrong, or out of range");
        };
        self.at += length;
        Ok(found)
    }

    fn string(&mut self) -> Result<String, Refused> {
        self.at += 1;
        let mut found = Vec::new();
        loop {
            let rest = &self.data[self.at..];
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=31));
            let Some(plain) = plain else {
                return self.wrong("a text does not end");
            };
            found.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            match rest[plain] {
                b'"' => break,
                b'\\' => self.escaped(&mut found)?,
                _ => return self.wrong("a text has a control character"),
            }
        }
        String::from_utf8(found).or_else(|_| self.wrong("a text is not UTF-8"))
    }

    fn escaped(&mut self, found: &mut Vec<u8>) -> Result<(), Refused> {
        let Some(byte) = self.data.get(self.at) else {
            return self.wrong("a text does not end");
        };
        self.at += 1;
        found.push(match byte {
            b'"' | b'\\' | b'/' => *byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = self.hex()?;
                if (0xD800..0xDC00).contains(&code) && self.data[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xDC00..0xE000).contains(&low) {
                        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    }
                }
                let Some(letter) = char::from_u32(code) else {
                    return self.wrong("an escape is no character");
                };
                let mut bytes = [0; 4];
                found.extend_from_slice(letter.encode_utf8(&mut bytes).as_bytes());
                return Ok(());
            }
            _ => return self.wrong("an escape is unknown"),
        });
        Ok(())
    }

    fn hex(&mut self) -> Result<u32, Refused> {
        let digits = self.data.get(self.at..self.at + 4).unwrap_or_default();
        let code = digits.iter().try_fold(0, |code, digit| {
            char::from(*digit)
                .to_digit(16)
                .map(|value| code << 4 | value)
        });
        match code {
            Some(code) if digits.len() == 4 => {
                self.at += 4;
                Ok(code)
            }
            _ => self.wrong("an escape is wrong"),
        }
    }

    fn array(&mut self, levels: usize) -> Result<Value, Refused> {
        self.at += 1;
        let mut found = Array::default();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(found.value());
        }
        loop {
            found.push(self.value(levels - 1)?)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.wrong("a list goes on wrongly"),
            }
        }
        self.at += 1;
        Ok(found.value())
    }

    fn object(&mut self, levels: usize) -> Result<Value, Refused> {
        self.at += 1;
        let mut found = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(found));
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.wrong("a key is missing");
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return self.wrong("a key has no value");
            }
            self.at += 1;
            found.push((key, self.value(levels - 1)?));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong("an object goes on wrongly"),
            }
        }
        self.at += 1;
        Value::object(found)
    }
}
