//! The few DER values (X.690) that we write, and the one that we bring into a common form.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Tag, length and content. Contents are a few thousand bytes at most.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let start = long.leading_zeros() as usize / 8;
            out.push(0x80 | (bytes.len() - start) as u8);
            out.extend_from_slice(&bytes[start..]);
        }
    }
    out.extend_from_slice(&content);
    out
}

/// A non-negative INTEGER from its big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let trimmed = trim(bytes);
    match trimmed.first() {
        None => tlv(INTEGER, &[&[0]]),
        Some(first) if first & 0x80 != 0 => tlv(INTEGER, &[&[0], trimmed]),
        Some(_) => tlv(INTEGER, &[trimmed]),
    }
}

/// Without leading zero bytes.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&b| b != 0).unwrap_or(bytes.len());
    &bytes[start..]
}

/// The content of an INTEGER as the shortest two's complement, so that equal numbers are equal bytes.
pub(crate) fn shortest(mut content: &[u8]) -> &[u8] {
    while let [first, second, ..] = content {
        let redundant =
            (*first == 0 && second & 0x80 == 0) || (*first == 0xff && second & 0x80 != 0);
        if !redundant {
            break;
        }
        content = &content[1..];
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_der() {
        assert_eq!(tlv(SEQUENCE, &[]), [0x30, 0]);
        assert_eq!(tlv(SEQUENCE, &[&[7; 127]])[..2], [0x30, 0x7f]);
        assert_eq!(tlv(SEQUENCE, &[&[7; 128]])[..3], [0x30, 0x81, 0x80]);
        assert_eq!(tlv(SEQUENCE, &[&[7; 256]])[..4], [0x30, 0x82, 1, 0]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0x7f]), [2, 1, 0x7f]);
        assert_eq!(shortest(&[0, 0, 1]), [1]);
        assert_eq!(shortest(&[0, 0x80]), [0, 0x80]);
        assert_eq!(shortest(&[0xff, 0x80]), [0x80]);
        assert_eq!(shortest(&[0]), [0]);
    }
}
