//! AES-256-GCM (NIST SP 800-38D) for small records, and HKDF-SHA256 (RFC 5869) for keys of keys.

use crate::keyfile::{self, FileError};
use crate::{KeyError, SecretBytes};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM};
use aws_lc_rs::hkdf::{KeyType, Salt, HKDF_SHA256};
use std::path::Path;
use std::sync::Arc;

/// Length of the key in bytes.
pub const SECRET_KEY_BYTES: usize = 32;
/// The first byte of what `seal` returns.
pub const SEAL_VERSION: u8 = 1;
/// What sealing adds, in bytes: version, nonce and tag.
pub const SEAL_OVERHEAD: usize = 1 + NONCE_BYTES + TAG_BYTES;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const KIND: &str = "secret";

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        SECRET_KEY_BYTES
    }
}

/// A 32-byte key, shared by handle.
///
/// Nonces are random: SP 800-38D allows 2^32 messages under one key, so derive a key per purpose.
#[derive(Clone)]
pub struct SecretKey(Arc<SecretBytes>);

impl SecretKey {
    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = SecretBytes::zeroed(SECRET_KEY_BYTES).ok_or(KeyError::System)?;
        bytes.fill_random().ok_or(KeyError::System)?;
        Ok(Self(Arc::new(bytes)))
    }

    /// The key of these 32 bytes.
    pub fn from_bytes(bytes: SecretBytes) -> Result<Self, KeyError> {
        if bytes.len() != SECRET_KEY_BYTES {
            return Err(KeyError::Malformed);
        }
        Ok(Self(Arc::new(bytes)))
    }

    /// Read a key file.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let (public, bytes) = keyfile::decode(KIND, SECRET_KEY_BYTES, &keyfile::read(path)?)?;
        if public.is_some() {
            return Err(FileError::Malformed("a secret key has no public part"));
        }
        Ok(Self(Arc::new(bytes)))
    }

    /// Create a key file.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        keyfile::create(path, &keyfile::encode(KIND, None, &self.0)?)
    }

    /// HKDF-SHA256 without salt and with `label` as info: another label gives an unrelated key.
    pub fn derive(&self, label: &str) -> Result<Self, KeyError> {
        self.expand(&[label.as_bytes()])
    }

    /// 32 bytes that follow from key and label, for somebody who shall have them and not the key. They are no key that
    /// [`Self::derive`] gives: no label has the byte behind this one, for labels are UTF-8.
    pub fn derive_bytes<T>(
        &self,
        label: &str,
        use_it: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, KeyError> {
        Ok(self
            .expand(&[label.as_bytes(), &[0xff]])?
            .with_bytes(use_it))
    }

    fn expand(&self, info: &[&[u8]]) -> Result<Self, KeyError> {
        let mut derived = SecretBytes::zeroed(SECRET_KEY_BYTES).ok_or(KeyError::System)?;
        self.0.with(|key| {
            Salt::new(HKDF_SHA256, &[])
                .extract(key)
                .expand(info, Bytes32)
                .and_then(|okm| okm.fill(derived.as_mut()))
                .map_err(|_| KeyError::System)
        })?;
        Ok(Self(Arc::new(derived)))
    }

    /// The bytes, lent to the closure only.
    pub fn with_bytes<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        self.0.with(use_it)
    }

    /// The key that [`Self::export_sealed`] sealed under `by` for this `context`.
    pub fn import_sealed(sealed: &[u8], by: &SecretKey, context: &[u8]) -> Result<Self, KeyError> {
        Self::from_bytes(import_sealed(sealed, KIND, by, context)?).map_err(|_| KeyError::Corrupt)
    }

    /// The key, sealed under `by` and bound to `context`.
    pub fn export_sealed(&self, by: &SecretKey, context: &[u8]) -> Result<Vec<u8>, KeyError> {
        export_sealed(&self.0, KIND, by, context)
    }

    fn cipher(&self) -> Result<LessSafeKey, KeyError> {
        // Made anew for each record: aws-lc cleanses the expanded key when it is freed, and the long-lived copy stays in
        // our own pages, which a forked child does not inherit.
        self.0.with(|key| {
            UnboundKey::new(&AES_256_GCM, key)
                .map(LessSafeKey::new)
                .map_err(|_| KeyError::System)
        })
    }

    /// version || random nonce || ciphertext || tag.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut out = vec![0u8; SEAL_OVERHEAD + plaintext.len()];
        let (head, body) = out.split_at_mut(1 + NONCE_BYTES);
        let (body, tag) = body.split_at_mut(plaintext.len());
        head[0] = SEAL_VERSION;
        getrandom::fill(&mut head[1..]).map_err(|_| KeyError::System)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[1..]).map_err(|_| KeyError::System)?;
        body.copy_from_slice(plaintext);
        let found = self
            .cipher()?
            .seal_in_place_separate_tag(nonce, Aad::from(aad), body)
            .map_err(|_| KeyError::System)?;
        tag.copy_from_slice(found.as_ref());
        Ok(out)
    }

    /// How many bytes of plaintext `sealed` holds.
    pub fn plain_len(sealed: &[u8]) -> Result<usize, KeyError> {
        match sealed.first() {
            Some(&SEAL_VERSION) => sealed
                .len()
                .checked_sub(SEAL_OVERHEAD)
                .ok_or(KeyError::Corrupt),
            _ => Err(KeyError::Corrupt),
        }
    }

    /// Open into `out`, which has the length that `plain_len` told.
    pub fn open_into(&self, sealed: &[u8], aad: &[u8], out: &mut [u8]) -> Result<(), KeyError> {
        let len = Self::plain_len(sealed)?;
        if out.len() != len {
            return Err(KeyError::Malformed);
        }
        let (nonce, rest) = sealed[1..].split_at(NONCE_BYTES);
        let (body, tag) = rest.split_at(len);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyError::Corrupt)?;
        self.cipher()?
            .open_separate_gather(nonce, Aad::from(aad), body, tag, out)
            .map_err(|_| KeyError::Corrupt)
    }

    /// Open into secret memory.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<SecretBytes, KeyError> {
        let mut out = SecretBytes::zeroed(Self::plain_len(sealed)?).ok_or(KeyError::System)?;
        self.open_into(sealed, aad, out.as_mut())?;
        Ok(out)
    }
}

/// The associated data of an exported key: kind and context, so that one kind never passes for another.
pub(crate) fn export_aad(kind: &str, context: &[u8]) -> Vec<u8> {
    let mut aad = format!("mesatee exported key v1 {kind}\0").into_bytes();
    aad.extend_from_slice(context);
    aad
}

/// Seal a secret of `kind` under `by`, bound to `context`.
pub fn export_sealed(
    secret: &SecretBytes,
    kind: &str,
    by: &SecretKey,
    context: &[u8],
) -> Result<Vec<u8>, KeyError> {
    secret.with(|bytes| by.seal(bytes, &export_aad(kind, context)))
}

/// Open what [`export_sealed`] made for the same kind, key and context.
pub fn import_sealed(
    sealed: &[u8],
    kind: &str,
    by: &SecretKey,
    context: &[u8],
) -> Result<SecretBytes, KeyError> {
    by.open(sealed, &export_aad(kind, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(SecretBytes::copy_of(&[byte; 32]).unwrap()).unwrap()
    }

    #[test]
    fn seals_and_opens() {
        let sealed = key(1).seal(b"record", b"aad").unwrap();
        assert_eq!(sealed.len(), 6 + SEAL_OVERHEAD);
        assert_eq!(
            key(1).open(&sealed, b"aad").unwrap().with(|b| b.to_vec()),
            b"record"
        );
        assert_eq!(key(2).open(&sealed, b"aad").err(), Some(KeyError::Corrupt));
        assert_eq!(key(1).open(&sealed, b"aae").err(), Some(KeyError::Corrupt));
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(key(1).open(&bad, b"aad").err(), Some(KeyError::Corrupt));
            assert_eq!(
                key(1).open(&sealed[..at], b"aad").err(),
                Some(KeyError::Corrupt)
            );
        }
    }

    #[test]
    fn derives_by_label() {
        let derived = key(1).derive("a").unwrap();
        let again = key(1).derive("a").unwrap();
        assert_eq!(derived.0.with(|b| b.to_vec()), again.0.with(|b| b.to_vec()));
        let other = key(1).derive("b").unwrap();
        assert_ne!(derived.0.with(|b| b.to_vec()), other.0.with(|b| b.to_vec()));
        let bytes = key(1).derive_bytes("a", |b| b.to_vec()).unwrap();
        assert_eq!(bytes, key(1).derive_bytes("a", |b| b.to_vec()).unwrap());
        assert_ne!(bytes, derived.0.with(|b| b.to_vec()));
        assert_ne!(bytes, key(1).derive_bytes("b", |b| b.to_vec()).unwrap());
    }

    #[test]
    fn exported_keys_keep_kind_and_context() {
        let secret = SecretBytes::copy_of(&[9; 32]).unwrap();
        let sealed = export_sealed(&secret, "signing", &key(1), b"epoch 1").unwrap();
        assert!(import_sealed(&sealed, "signing", &key(1), b"epoch 1").is_ok());
        assert!(import_sealed(&sealed, "hpke", &key(1), b"epoch 1").is_err());
        assert!(import_sealed(&sealed, "signing", &key(1), b"epoch 2").is_err());
        assert!(import_sealed(&sealed, "signing", &key(2), b"epoch 1").is_err());
    }
}
