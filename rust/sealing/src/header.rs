//! The age header, bounded before the library's parser sees it.
//!
//! The parser reads line by line and starts anew for each, so both the bytes and the lines need a limit; and it reads on
//! to the next line feed where a header is incomplete, so it gets complete headers only.

use crate::error::SealingError;
use age::Decryptor;
use std::io::{BufRead, Chain, Cursor, ErrorKind, Read};

/// The longest header, in bytes. The same number stands in `protocol/limits.py`.
pub const AGE_HEADER_BYTES: usize = 64 * 1024;
/// The most lines of a header; a stanza for an X25519 recipient takes two. The same number stands in `protocol/limits.py`.
pub const AGE_HEADER_LINES: usize = 1024;

const VERSION: &[u8] = b"age-encryption.org/v1\n";
const ARMOR: &[u8] = b"-----BEGIN AGE";
const MAC: &[u8] = b"---";
/// `--- `, 43 characters of base64 and a line feed.
const MAC_LINE_BYTES: usize = 4 + 43 + 1;
const NONCE_BYTES: usize = 16;

/// Header and nonce that were taken from the front of `source`.
///
/// 1. The first line is age's, version 1 (C2SP age, "Header"); armor is refused.
/// 2. Lines follow up to the one with the MAC, within the limits.
/// 3. The payload's nonce follows ("Payload").
pub(crate) fn take(source: &mut impl BufRead) -> Result<Vec<u8>, SealingError> {
    let mut head = Vec::new();
    // 1.
    line(source, &mut head, VERSION.len().max(ARMOR.len()))?;
    if head.starts_with(ARMOR) {
        return Err(SealingError::malformed(
            "armored age files are not accepted: decode the armor first",
        ));
    }
    if head != VERSION {
        return Err(match VERSION.starts_with(&head) && !head.is_empty() {
            true => SealingError::corrupt("the sealed file ends inside its header"),
            false => SealingError::malformed("not an age v1 file"),
        });
    }
    // 2.
    for _ in 1..AGE_HEADER_LINES {
        let start = head.len();
        line(source, &mut head, AGE_HEADER_BYTES)?;
        let last = &head[start..];
        // An altered end of the header is met here, in the payload's random bytes, and not at the limit.
        let text = last.strip_suffix(b"\n").unwrap_or(last);
        if !text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(SealingError::malformed("not an age v1 header"));
        }
        if !last.ends_with(b"\n") {
            return Err(match head.len() >= AGE_HEADER_BYTES {
                true => SealingError::too_large("the age header is longer than 65536 bytes"),
                false => SealingError::corrupt("the sealed file ends inside its header"),
            });
        }
        if last.starts_with(MAC) {
            if last.len() != MAC_LINE_BYTES {
                return Err(SealingError::malformed("not an age v1 header"));
            }
            // 3.
            let before = head.len();
            let got = source.take(NONCE_BYTES as u64).read_to_end(&mut head);
            got.map_err(|error| SealingError::uncarry(error, "the sealed file cannot be read"))?;
            if head.len() - before != NONCE_BYTES {
                return Err(SealingError::corrupt("the sealed file ends too early"));
            }
            return Ok(head);
        }
    }
    Err(SealingError::too_large(
        "the age header has more than 1024 lines",
    ))
}

/// Append bytes up to a line feed, the end, or `limit` bytes in all.
fn line(source: &mut impl BufRead, head: &mut Vec<u8>, limit: usize) -> Result<(), SealingError> {
    while head.len() < limit {
        let ready = match source.fill_buf() {
            Ok(ready) => ready,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(SealingError::uncarry(
                    error,
                    "the sealed file cannot be read",
                ))
            }
        };
        if ready.is_empty() {
            return Ok(());
        }
        let room = ready.len().min(limit - head.len());
        let end = ready[..room].iter().position(|byte| *byte == b'\n');
        let count = end.map_or(room, |at| at + 1);
        head.extend_from_slice(&ready[..count]);
        source.consume(count);
        if end.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// What the payload is read from: the header that was taken, then the rest.
pub(crate) type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// Parse a header that [`take`] took; nothing of `rest` is read.
pub(crate) fn parse<R: BufRead>(
    head: Vec<u8>,
    rest: R,
) -> Result<Decryptor<Whole<R>>, SealingError> {
    check(&head)?;
    Decryptor::new_buffered(Cursor::new(head).chain(rest)).map_err(SealingError::decrypt)
}

/// Parse the header alone: it must be complete, and end where [`take`] saw its end.
pub(crate) fn check(head: &[u8]) -> Result<(), SealingError> {
    let mut alone = head;
    let parsed = Decryptor::new_buffered(&mut alone).is_ok();
    if parsed && alone.is_empty() {
        return Ok(());
    }
    Err(SealingError::malformed("not an age v1 header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reject;

    fn kind(bytes: &[u8]) -> Reject {
        match take(&mut &bytes[..]) {
            Err(SealingError::Rejected(kind, _)) => kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_fronts() {
        assert_eq!(kind(b""), Reject::Malformed);
        assert_eq!(kind(b"age-encryption.org/v2\n"), Reject::Malformed);
        assert_eq!(
            kind(b"-----BEGIN AGE ENCRYPTED FILE-----\n"),
            Reject::Malformed
        );
        assert_eq!(kind(b"age-encryption.or"), Reject::Corrupt);
        assert_eq!(kind(b"age-encryption.org/v1\n-> a"), Reject::Corrupt);
        assert_eq!(kind(b"age-encryption.org/v1\n-> \x07\n"), Reject::Malformed);
        assert_eq!(kind(b"age-encryption.org/v1\n--- a\n"), Reject::Malformed);
        assert_eq!(kind(&[b'a'; 1 << 20]), Reject::Malformed);
    }

    #[test]
    fn bytes_and_lines_are_bounded() {
        let mut long = VERSION.to_vec();
        long.extend_from_slice(b"-> ");
        long.resize(AGE_HEADER_BYTES + 1, b'a');
        assert_eq!(kind(&long), Reject::TooLarge);
        let mut many = VERSION.to_vec();
        many.extend_from_slice(&b"-> a\n\n".repeat(AGE_HEADER_LINES));
        assert_eq!(kind(&many), Reject::TooLarge);
    }

    #[test]
    fn takes_no_more_than_header_and_nonce() {
        let mut file = VERSION.to_vec();
        file.extend_from_slice(b"-> a\n\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
        let header = file.len();
        file.extend_from_slice(&[1; 40]);
        let mut rest = &file[..];
        assert_eq!(take(&mut rest).unwrap(), file[..header + NONCE_BYTES]);
        assert_eq!(rest.len(), 40 - NONCE_BYTES);
        assert!(check(&file[..header + NONCE_BYTES]).is_ok());
        assert!(check(&file[..header + NONCE_BYTES + 1]).is_err());
        assert!(check(&file[..header - 1]).is_err());
    }
}
