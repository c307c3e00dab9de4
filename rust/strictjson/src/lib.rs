//! RFC 8259 JSON, strictly, in one reading that every other strict parser agrees with.
//!
//! Refused beyond what `serde_json` refuses: duplicate keys, integers outside i64 (with [`Integers::Foreign`] outside of 64
//! bits, with a sign or without), numbers that are not finite, and whatever is over a limit of size or depth. Errors give
//! positions, never content.
#![forbid(unsafe_code)]

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// The deepest nesting that can be allowed, in levels: one less than what the underlying parser stops at by itself.
pub const MAX_DEPTH: usize = 126;

/// `serde_json` gives a number that is not a plain integer of 64 bits as a map with this one key, so that its text is kept
/// (feature `arbitrary_precision`).
const NUMBER: &str = "$serde_json::private::Number";

/// So many keys are compared with each other faster than they are hashed.
const FEW_KEYS: usize = 8;

const OUTSIDE: &str = "an integer outside of 64 bits";

/// A JSON value. Objects keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction and exponent.
    Int(i64),
    /// One that does not fit: from 2^63 to 2^64 - 1.
    Unsigned(u64),
    /// Any other number; finite.
    Float(f64),
    /// A string of Unicode scalar values.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object; its keys are distinct.
    Object(Vec<(String, Value)>),
}

/// Which integers a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integers {
    /// Those of i64: what our own formats have.
    Signed,
    /// Those of u64 too: what other makers' tools write.
    Foreign,
}

/// Why a text was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// Not strict JSON; the text says where.
    Malformed(String),
    /// Over a limit.
    TooLarge(String),
}

/// Parse a text of at most `max_bytes` bytes and `max_depth` levels; `[]` has one level, a number none.
///
/// `max_depth` counts up to [`MAX_DEPTH`].
pub fn parse(
    data: &[u8],
    max_bytes: usize,
    max_depth: usize,
    integers: Integers,
) -> Result<Value, JsonError> {
    if data.len() > max_bytes {
        return Err(JsonError::TooLarge(format!(
            "JSON of {} bytes, the limit is {max_bytes}",
            data.len()
        )));
    }
    let text = std::str::from_utf8(data).map_err(|error| {
        JsonError::Malformed(format!("not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let max_depth = max_depth.min(MAX_DEPTH);
    let too_deep = Cell::new(false);
    let seed = Strict {
        left: max_depth,
        integers,
        input: address(text),
        too_deep: &too_deep,
    };
    let mut parser = serde_json::Deserializer::from_str(text);
    seed.deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|error| match too_deep.get() {
            true => JsonError::TooLarge(format!("JSON deeper than {max_depth} levels")),
            false => JsonError::Malformed(format!("not strict JSON: {error}")),
        })
}

fn address(text: &str) -> Range<usize> {
    let start = text.as_ptr() as usize;
    start..start + text.len()
}

/// Takes one value.
#[derive(Clone)]
struct Strict<'a> {
    /// Levels that may still be opened.
    left: usize,
    integers: Integers,
    /// Where the input lies in memory.
    input: Range<usize>,
    too_deep: &'a Cell<bool>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Self {
                left,
                ..self.clone()
            }),
            None => {
                self.too_deep.set(true);
                Err(E::custom("too deep"))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => Ok(Value::Int(value)),
            Err(_) if self.integers == Integers::Foreign => Ok(Value::Unsigned(value)),
            Err(_) => Err(E::custom(OUTSIDE)),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut found = Vec::new();
        while let Some(item) = items.next_element_seed(inner.clone())? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let key = Key(self.input.clone());
        let mut next = entries.next_key_seed(key.clone())?;
        if let Some(Found::Number) = next {
            return number(&entries.next_value::<String>()?);
        }
        let inner = self.deeper()?;
        let mut found = Vec::new();
        while let Some(Found::Key(name)) = next {
            found.push((name, entries.next_value_seed(inner.clone())?));
            next = entries.next_key_seed(key.clone())?;
        }
        if has_twice(&found) {
            return Err(A::Error::custom(
                "a key stands twice in the object that ends",
            ));
        }
        Ok(Value::Object(found))
    }
}

/// Whether a key stands twice.
fn has_twice(entries: &[(String, Value)]) -> bool {
    if entries.len() <= FEW_KEYS {
        let mut rest = entries;
        while let [(name, _), others @ ..] = rest {
            if others.iter().any(|(other, _)| other == name) {
                return true;
            }
            rest = others;
        }
        return false;
    }
    let mut seen = HashSet::with_capacity(entries.len());
    !entries.iter().all(|(name, _)| seen.insert(name.as_str()))
}

/// Takes a key, and tells a number's marker from an object's key of the same name.
///
/// The marker is a constant of the library. A key of the input is either borrowed from the input or, when it has escapes,
/// not borrowed at all; so a borrowed string that lies outside the input can only be the constant.
#[derive(Clone)]
struct Key(Range<usize>);

enum Found {
    Key(String),
    Number,
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Found, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Found;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Found, E> {
        if value == NUMBER && !self.0.contains(&(value.as_ptr() as usize)) {
            return Ok(Found::Number);
        }
        Ok(Found::Key(value.to_owned()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Found, E> {
        Ok(Found::Key(value.to_owned()))
    }
}

fn number<E: serde::de::Error>(text: &str) -> Result<Value, E> {
    if text.contains(['.', 'e', 'E']) {
        return match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Float(value)),
            _ => Err(E::custom("a number that is not finite")),
        };
    }
    text.parse().map(Value::Int).map_err(|_| E::custom(OUTSIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Value {
        signed(text.as_bytes(), 1 << 20, 24).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    fn signed(data: &[u8], max_bytes: usize, max_depth: usize) -> Result<Value, JsonError> {
        parse(data, max_bytes, max_depth, Integers::Signed)
    }

    fn malformed(text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let result = signed(text, 1 << 20, 24);
        assert!(
            matches!(result, Err(JsonError::Malformed(_))),
            "{text:?} gave {result:?}"
        );
    }

    #[test]
    fn values() {
        assert_eq!(ok("null"), Value::Null);
        assert_eq!(
            ok(" [true,false] "),
            Value::Array(vec![Value::Bool(true), Value::Bool(false)])
        );
        assert_eq!(ok("-0"), Value::Int(0));
        assert_eq!(ok("-0.0"), Value::Float(-0.0));
        assert_eq!(ok("9223372036854775807"), Value::Int(i64::MAX));
        assert_eq!(ok("-9223372036854775808"), Value::Int(i64::MIN));
        assert_eq!(ok("1e3"), Value::Float(1000.0));
        assert_eq!(ok("{}"), Value::Object(vec![]));
        assert_eq!(
            ok(r#""\ud83d\ude00\u0000""#),
            Value::String("\u{1f600}\0".to_owned())
        );
    }

    /// A number's marker must not be reachable from the input, in whatever spelling.
    #[test]
    fn the_marker_of_numbers_is_an_ordinary_key() {
        for key in [
            NUMBER,
            r"\u0024serde_json::private::Number",
            r"$serde_json::private::Numbe\u0072",
        ] {
            for value in [r#""1""#, "1", r#""x""#, "{}"] {
                let text = format!(r#"{{"{key}":{value}}}"#);
                match ok(&text) {
                    Value::Object(entries) => {
                        assert_eq!(entries.len(), 1);
                        assert_eq!(entries[0].0, NUMBER);
                        assert_eq!(entries[0].1, ok(value));
                    }
                    other => panic!("{text} gave {other:?}"),
                }
            }
            malformed(format!(r#"{{"{key}":1,"{NUMBER}":2}}"#));
        }
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            " ",
            "nul",
            "NaN",
            "Infinity",
            "-Infinity",
            "+1",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "0x1",
            "1e400",
            "-1e400",
            "9223372036854775808",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"\t\"",
            "{\"\t\":1}",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "{\"\\ud800\":1}",
            "1 2",
            "[] x",
            "{\"a\":1}{}",
            "\u{feff}1",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "[{\"x\":{\"b\":1,\"c\":2,\"b\":1}}]",
            "/*c*/1",
            "[1",
            "{1:2}",
            "{null:1}",
            "1\0",
        ] {
            malformed(text);
        }
        malformed([0x22, 0xff, 0x22]);
        malformed([0x22, 0xed, 0xa0, 0x80, 0x22]);
        malformed([0x7b, 0x22, 0xc0, 0x80, 0x22, 0x3a, 0x31, 0x7d]);
    }

    #[test]
    fn keys_that_stand_twice_are_found_among_few_and_among_many() {
        for count in [2, FEW_KEYS, FEW_KEYS + 1, 100] {
            let keys: Vec<String> = (0..count).map(|n| format!("\"{n}\":1")).collect();
            ok(&format!("{{{}}}", keys.join(",")));
            for (first, second) in [(0, count - 1), (0, 1), (count - 2, count - 1)] {
                let mut twice = keys.clone();
                twice[second] = twice[first].clone();
                malformed(format!("{{{}}}", twice.join(",")));
            }
        }
    }

    #[test]
    fn foreign_integers() {
        let foreign = |text: &str| parse(text.as_bytes(), 100, 1, Integers::Foreign);
        assert_eq!(foreign("9223372036854775807"), Ok(Value::Int(i64::MAX)));
        assert_eq!(foreign("-9223372036854775808"), Ok(Value::Int(i64::MIN)));
        assert_eq!(foreign("9223372036854775808"), Ok(Value::Unsigned(1 << 63)));
        assert_eq!(
            foreign("18446744073709551615"),
            Ok(Value::Unsigned(u64::MAX))
        );
        assert!(foreign("18446744073709551616").is_err());
        assert!(foreign("-9223372036854775809").is_err());
    }

    #[test]
    fn limits_one_above_and_one_below() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for depth in [0, 1, 24, MAX_DEPTH] {
            assert!(signed(nested(depth.max(1)).as_bytes(), 1000, depth.max(1)).is_ok());
            let over = signed(nested(depth + 1).as_bytes(), 1000, depth);
            assert!(
                matches!(over, Err(JsonError::TooLarge(_))),
                "{depth}: {over:?}"
            );
        }
        assert!(signed(b"1", 10, 0).is_ok());
        assert!(matches!(
            signed(b"{\"a\":{}}", 10, 1),
            Err(JsonError::TooLarge(_))
        ));
        assert!(signed(b"[1]", 3, 1).is_ok());
        assert!(matches!(signed(b"[1] ", 3, 1), Err(JsonError::TooLarge(_))));
        // Far deeper than any stack would bear.
        assert!(signed("[".repeat(1 << 20).as_bytes(), 1 << 21, usize::MAX).is_err());
    }

    #[test]
    fn errors_do_not_repeat_content() {
        let Err(JsonError::Malformed(text)) = signed(b"{\"hunter2\":1,\"hunter2\":tru}", 100, 3)
        else {
            panic!()
        };
        assert!(!text.contains("hunter2"));
    }
}
