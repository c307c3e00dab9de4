//! An age X25519 identity in a file that the `age` tool reads too.

use crate::error::SealingError;
use age::x25519::{Identity, Recipient};
use age_core::secrecy::ExposeSecret;
use aws_lc_rs::agreement::{agree_ephemeral, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::rand::SystemRandom;
use bech32::FromBase32;
use mesatee_custody::keyfile::{self, FileError};
use mesatee_custody::SecretBytes;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

const SECRET: &[u8] = b"AGE-SECRET-KEY-1";

struct Inner {
    /// `AGE-SECRET-KEY-1...`: the library takes and gives identities as text only.
    text: SecretBytes,
    recipient: String,
}

/// An age X25519 identity, shared by handle.
#[derive(Clone)]
pub struct AgeKey(Arc<Inner>);

impl AgeKey {
    /// A new random key.
    pub fn generate() -> Result<Self, SealingError> {
        let identity = Identity::generate();
        let text = identity.to_string();
        Self::of(text.expose_secret().as_bytes()).ok_or_else(SealingError::no_memory)
    }

    fn of(line: &[u8]) -> Option<Self> {
        let identity = Identity::from_str(std::str::from_utf8(line).ok()?).ok()?;
        Some(Self(Arc::new(Inner {
            text: SecretBytes::copy_of(line)?,
            recipient: identity.to_public().to_string(),
        })))
    }

    /// Read a key file: comments, and exactly one identity.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        keyfile::read(path)?.with(|text| {
            let mut found = None;
            for line in text.split(|byte| *byte == b'\n') {
                let line = line.trim_ascii_end();
                if line.is_empty() || line.starts_with(b"#") {
                    continue;
                }
                if !line.starts_with(SECRET) {
                    return Err(FileError::Malformed("a line is not an age X25519 identity"));
                }
                if found.is_some() {
                    return Err(FileError::Malformed("more than one age identity"));
                }
                let key =
                    Self::of(line).ok_or(FileError::Malformed("not an age X25519 identity"))?;
                found = Some(key);
            }
            found.ok_or(FileError::Malformed("no age identity"))
        })
    }

    /// Create a key file.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let head = format!("# public key: {}\n", self.0.recipient);
        let len = head.len() + self.0.text.len() + 1;
        let no_memory = || FileError::Io(std::io::ErrorKind::OutOfMemory.into());
        let mut text = SecretBytes::zeroed(len).ok_or_else(no_memory)?;
        let (start, rest) = text.as_mut().split_at_mut(head.len());
        start.copy_from_slice(head.as_bytes());
        self.0
            .text
            .with(|secret| rest[..secret.len()].copy_from_slice(secret));
        rest[self.0.text.len()] = b'\n';
        keyfile::create(path, &text)
    }

    /// `age1...`
    pub fn recipient(&self) -> &str {
        &self.0.recipient
    }

    /// The library's form of it, for one call; it is wiped when it is dropped.
    pub(crate) fn identity(&self) -> Result<Identity, SealingError> {
        self.0.text.with(|text| {
            std::str::from_utf8(text)
                .ok()
                .and_then(|text| Identity::from_str(text).ok())
                .ok_or_else(|| SealingError::malformed("not an age X25519 identity"))
        })
    }
}

/// Parse `age1...`. A point of low order is refused: nothing sealed to it would be secret.
pub(crate) fn recipient(text: &str) -> Result<Recipient, SealingError> {
    let wrong = || SealingError::malformed("not an age X25519 recipient (age1...)");
    let parsed = Recipient::from_str(text).map_err(|_| wrong())?;
    let (_, data, _) = bech32::decode(text).map_err(|_| wrong())?;
    let public = Vec::<u8>::from_base32(&data).map_err(|_| wrong())?;
    let ours = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
        .map_err(|_| SealingError::no_randomness())?;
    agree_ephemeral(
        ours,
        UnparsedPublicKey::new(&X25519, public),
        (),
        |_| Ok(()),
    )
    .map_err(|()| SealingError::malformed("an age recipient of low order"))?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bech32::{ToBase32, Variant};

    #[test]
    fn recipients_of_low_order_are_malformed() {
        let of = |bytes: [u8; 32]| {
            recipient(&bech32::encode("age", bytes.to_base32(), Variant::Bech32).unwrap())
        };
        let mut one = [0; 32];
        one[0] = 1;
        assert!(of([0; 32]).is_err());
        assert!(of(one).is_err());
        assert!(of([9; 32]).is_ok());
        assert!(recipient("age1").is_err());
        assert!(recipient(AgeKey::generate().unwrap().recipient()).is_ok());
    }
}
