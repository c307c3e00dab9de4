//! Hashes of the log, many at a time: at a start every entry and every body that is stored is hashed.
//!
//! The tree itself, its proofs and its rules are in `protocol/merkle.py`.
#![forbid(unsafe_code)]

use aws_lc_rs::digest::{digest, Context, SHA256};

/// A hash, in bytes.
pub const HASH: usize = 32;
const LEAF: &[u8] = &[0];
const NODE: &[u8] = &[1];

fn tagged(tag: &[u8], data: &[u8], out: &mut Vec<u8>) {
    let mut context = Context::new(&SHA256);
    context.update(tag);
    context.update(data);
    out.extend_from_slice(context.finish().as_ref());
}

/// The leaf hashes of all entries, one after the other (RFC 6962, section 2.1).
pub fn leaves<T: AsRef<[u8]>>(entries: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * HASH);
    for entry in entries {
        tagged(LEAF, entry.as_ref(), &mut out);
    }
    out
}

/// The hashes of the nodes above neighbours (RFC 6962, section 2.1). None for bytes that are not whole pairs.
pub fn nodes(pairs: &[u8]) -> Option<Vec<u8>> {
    let pairs = pairs.chunks_exact(2 * HASH);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(pairs.len() * HASH);
    for pair in pairs {
        tagged(NODE, pair, &mut out);
    }
    Some(out)
}

/// The first body that does not have the SHA-256 with which its entry ends, or that has no entry.
pub fn first_altered<T: AsRef<[u8]>>(entries: &[T], bodies: &[T]) -> Option<usize> {
    let named = |index: usize| entries.get(index)?.as_ref().last_chunk::<HASH>();
    bodies.iter().enumerate().find_map(|(index, body)| {
        let found = digest(&SHA256, body.as_ref());
        (named(index).map(|name| &name[..]) != Some(found.as_ref())).then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_foreign_body_is_found() {
        let bodies: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 100]).collect();
        let mut entries: Vec<Vec<u8>> = bodies
            .iter()
            .map(|body| [&[7; HASH], digest(&SHA256, body).as_ref()].concat())
            .collect();
        assert_eq!(first_altered(&entries, &bodies), None);
        assert_eq!(first_altered(&entries[..4], &bodies), Some(4));
        entries[3].truncate(HASH - 1);
        entries[4][63] ^= 1;
        assert_eq!(first_altered(&entries, &bodies), Some(3));
        assert_eq!(first_altered(&entries[4..], &bodies[4..]), Some(0));
    }

    #[test]
    fn only_whole_pairs_have_nodes() {
        assert_eq!(nodes(&[]), Some(Vec::new()));
        assert_eq!(nodes(&[0; 2 * HASH + 1]), None);
        assert_eq!(
            nodes(&[0; 4 * HASH]).map(|found| found.len()),
            Some(2 * HASH)
        );
    }
}
