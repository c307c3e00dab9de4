//! What functions do with keys that come as data of a run: RSA signatures, authenticated decryption.
//!
//! The primitives are those of AWS-LC, in constant time as far as it makes them so; ours is reading the key. Used in the
//! sandboxed child, which ends with its run; keys of the service itself are in `mesatee-custody`.
#![forbid(unsafe_code)]

mod aead;
mod rsa;

pub use aead::{open_into, plain_len, NONCE_BYTES, TAG_BYTES};
pub use rsa::{sign, KEY_BYTES};

/// What can be wrong with what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoError {
    /// Not of the format, or not for this algorithm; says what to do.
    Malformed(&'static str),
    /// Over a limit that the text names.
    TooLarge(&'static str),
    /// Altered, cut, or made with another key, nonce or associated data.
    Refused(&'static str),
}
