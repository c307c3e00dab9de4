//! Secret memory, key files, and the keys that need nothing but them.
//!
//! Secrets live in pages of their own: locked in RAM where the limits allow it, left out of core dumps, wiped in a forked
//! child, and overwritten before they are given back. Nothing here implements `Clone`, `Debug` of contents or serialisation.

pub mod keyfile;
mod memory;
mod symmetric;

pub use keyfile::FileError;
pub use memory::{protect_process, SecretBytes};
pub use symmetric::{
    export_sealed, import_sealed, SecretKey, SEAL_OVERHEAD, SEAL_VERSION, SECRET_KEY_BYTES,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, UnparsedPublicKey, ED25519};
use std::path::Path;
use std::sync::Arc;

/// What can go wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The bytes are not a key of this kind.
    Malformed,
    /// The signature does not verify.
    SignatureInvalid,
    /// Sealed bytes were altered, cut, or sealed by another key or for another purpose.
    Corrupt,
    /// The operating system gave no memory or no randomness.
    System,
}

/// Length of an Ed25519 seed in bytes (RFC 8032, section 5.1.5).
pub const SEED_BYTES: usize = 32;

const KIND: &str = "signing";

struct Inner {
    seed: SecretBytes,
    // aws-lc keeps an expanded copy that it cleanses when freed; the process is locked in RAM and not dumpable.
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// An Ed25519 private key (RFC 8032), shared by handle.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

impl SigningKey {
    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = SecretBytes::zeroed(SEED_BYTES).ok_or(KeyError::System)?;
        seed.fill_random().ok_or(KeyError::System)?;
        Self::from_seed(seed)
    }

    /// The key of a 32-byte seed.
    pub fn from_seed(seed: SecretBytes) -> Result<Self, KeyError> {
        let pair = seed.with(|bytes| {
            Ed25519KeyPair::from_seed_unchecked(bytes).map_err(|_| KeyError::Malformed)
        })?;
        let mut public = [0u8; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self(Arc::new(Inner { seed, pair, public })))
    }

    /// Read a key file; a public part that is not the secret's is refused.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let (public, seed) = keyfile::decode(KIND, SEED_BYTES, &keyfile::read(path)?)?;
        let key = Self::from_seed(seed).map_err(|_| FileError::Malformed("not an Ed25519 key"))?;
        match public {
            Some(public) if public == key.public() => Ok(key),
            _ => Err(FileError::Malformed("public part and secret differ")),
        }
    }

    /// Create a key file.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        keyfile::create(
            path,
            &keyfile::encode(KIND, Some(&self.0.public), &self.0.seed)?,
        )
    }

    /// The key that [`Self::export_sealed`] sealed under `by` for this `context`.
    pub fn import_sealed(sealed: &[u8], by: &SecretKey, context: &[u8]) -> Result<Self, KeyError> {
        let seed = import_sealed(sealed, KIND, by, context)?;
        if seed.len() != SEED_BYTES {
            return Err(KeyError::Corrupt);
        }
        Self::from_seed(seed)
    }

    /// The seed, sealed under `by` and bound to `context`.
    pub fn export_sealed(&self, by: &SecretKey, context: &[u8]) -> Result<Vec<u8>, KeyError> {
        export_sealed(&self.0.seed, KIND, by, context)
    }

    /// The seed, lent to the closure only.
    pub fn with_seed<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        self.0.seed.with(use_it)
    }

    /// The public key, 32 bytes.
    pub fn public(&self) -> [u8; 32] {
        self.0.public
    }

    /// A signature of 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0u8; 64];
        out.copy_from_slice(self.0.pair.sign(message).as_ref());
        out
    }
}

/// Verify an Ed25519 signature (RFC 8032, section 5.1.7).
pub fn verify_ed25519(public: &[u8], signature: &[u8], message: &[u8]) -> Result<(), KeyError> {
    if public.len() != 32 || signature.len() != 64 {
        return Err(KeyError::Malformed);
    }
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .map_err(|_| KeyError::SignatureInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn rfc8032_vector() {
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SigningKey::from_seed(SecretBytes::copy_of(&seed).unwrap()).unwrap();
        assert_eq!(
            key.public().to_vec(),
            hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        );
        let signature = key.sign(&[0x72]);
        assert_eq!(signature[..4], hex("92a009a9")[..]);
        assert_eq!(verify_ed25519(&key.public(), &signature, &[0x72]), Ok(()));
        assert_eq!(
            verify_ed25519(&key.public(), &signature, &[0x73]),
            Err(KeyError::SignatureInvalid)
        );
        assert_eq!(
            verify_ed25519(&[0; 31], &signature, &[]),
            Err(KeyError::Malformed)
        );
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }
}
