//! HPKE base mode (RFC 9180, section 5.1.1) with X-Wing, HKDF-SHA256 and ChaCha20Poly1305.
//!
//! X-Wing is KEM 0x647a, MLKEM768-X25519 of draft-ietf-hpke-pq. A wrap is `enc || ciphertext`.

use crate::error::SealingError;
use age_core::format::FileKey as AgeFileKey;
use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use mesatee_custody::keyfile::{self, FileError};
use mesatee_custody::{export_sealed, import_sealed, KeyError, SecretBytes, SecretKey, SigningKey};
use std::path::Path;
use std::sync::Arc;

/// Length of a public key in bytes: ML-KEM-768 (1184) and X25519 (32).
pub const HPKE_PUBLIC_BYTES: usize = 1216;
/// Length of the encapsulated key in bytes: ML-KEM-768 (1088) and X25519 (32).
pub const ENC_BYTES: usize = 1120;
/// What a wrap adds to its plaintext, in bytes.
pub const WRAP_OVERHEAD: usize = ENC_BYTES + TAG_BYTES;
/// Length of an age file key in bytes.
pub const FILE_KEY_BYTES: usize = 16;

const TAG_BYTES: usize = 16;
const SEED_BYTES: usize = 32;
const KIND: &str = "hpke";

type Private = <XWing as Kem>::PrivateKey;
type Public = <XWing as Kem>::PublicKey;

/// Wrap `plaintext` to the public key `to`.
pub fn wrap(to: &[u8], plaintext: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealingError> {
    let to = Public::from_bytes(to)
        .map_err(|_| SealingError::malformed("not an X-Wing public key of 1216 bytes"))?;
    let (enc, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeS::Base,
        &to,
        info,
        plaintext,
        aad,
    )
    .map_err(|_| SealingError::malformed("the plaintext does not fit into a wrap"))?;
    let mut out = enc.to_bytes().to_vec();
    out.extend_from_slice(&ciphertext);
    Ok(out)
}

/// The info of a key's wrap: the caller's and the kind, so that one kind never passes for another.
fn key_info(info: &[u8], kind: &str) -> Vec<u8> {
    let mut whole = info.to_vec();
    whole.push(0);
    whole.extend_from_slice(kind.as_bytes());
    whole
}

/// Wrap a signing key to the public key `to` of another enclave.
pub fn wrap_signing_key(
    key: &SigningKey,
    to: &[u8],
    info: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealingError> {
    key.with_seed(|seed| wrap(to, seed, &key_info(info, "signing"), aad))
}

/// Wrap a symmetric key to the public key `to` of another enclave.
pub fn wrap_secret_key(
    key: &SecretKey,
    to: &[u8],
    info: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealingError> {
    key.with_bytes(|bytes| wrap(to, bytes, &key_info(info, "secret"), aad))
}

struct Inner {
    seed: SecretBytes,
    public: Vec<u8>,
}

/// An X-Wing private key, shared by handle. The 32-byte seed is the whole key; the rest is made for each use.
#[derive(Clone)]
pub struct HpkeKey(Arc<Inner>);

impl HpkeKey {
    /// A new random key.
    pub fn generate() -> Result<Self, SealingError> {
        let mut seed = SecretBytes::zeroed(SEED_BYTES).ok_or_else(SealingError::no_memory)?;
        seed.fill_random().ok_or_else(SealingError::no_randomness)?;
        Self::from_seed(seed).map_err(|_| SealingError::malformed("not an X-Wing seed"))
    }

    /// The key of a 32-byte seed (draft-connolly-cfrg-xwing-kem, section 5.2).
    pub fn from_seed(seed: SecretBytes) -> Result<Self, KeyError> {
        let private = seed
            .with(Private::from_bytes)
            .map_err(|_| KeyError::Malformed)?;
        let public = XWing::sk_to_pk(&private).to_bytes().to_vec();
        Ok(Self(Arc::new(Inner { seed, public })))
    }

    /// Read a key file; a public part that is not the secret's is refused.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let (public, seed) = keyfile::decode(KIND, SEED_BYTES, &keyfile::read(path)?)?;
        let key = Self::from_seed(seed).map_err(|_| FileError::Malformed("not an X-Wing key"))?;
        match public {
            Some(public) if public == key.0.public => Ok(key),
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
        Self::from_seed(seed).map_err(|_| KeyError::Corrupt)
    }

    /// The seed, sealed under `by` and bound to `context`.
    pub fn export_sealed(&self, by: &SecretKey, context: &[u8]) -> Result<Vec<u8>, KeyError> {
        export_sealed(&self.0.seed, KIND, by, context)
    }

    /// The public key, 1216 bytes.
    pub fn public(&self) -> &[u8] {
        &self.0.public
    }

    /// Open a wrap into secret memory.
    pub fn unwrap(
        &self,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<SecretBytes, SealingError> {
        let refused =
            || SealingError::key_refused("the wrap was not made for this key, info and data");
        if wrap.len() < WRAP_OVERHEAD {
            return Err(SealingError::malformed("a wrap has at least 1136 bytes"));
        }
        let (enc, rest) = wrap.split_at(ENC_BYTES);
        let (body, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let enc = <XWing as Kem>::EncappedKey::from_bytes(enc).map_err(|_| refused())?;
        let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(tag).map_err(|_| refused())?;
        let private = self
            .0
            .seed
            .with(Private::from_bytes)
            .map_err(|_| refused())?;
        let mut out = SecretBytes::copy_of(body).ok_or_else(SealingError::no_memory)?;
        hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &private,
            &enc,
            info,
            InOutBuf::from(out.as_mut()),
            aad,
            &tag,
        )
        .map_err(|_| refused())?;
        Ok(out)
    }

    /// Wrap this key itself to the public key `to` of another enclave.
    pub fn wrap_to(&self, to: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealingError> {
        self.0
            .seed
            .with(|seed| wrap(to, seed, &key_info(info, KIND), aad))
    }

    /// Open what [`Self::wrap_to`] made.
    pub fn unwrap_hpke_key(
        &self,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Self, SealingError> {
        Self::from_seed(self.unwrap_key(wrap, KIND, info, aad)?)
            .map_err(|_| SealingError::malformed("not an X-Wing seed"))
    }

    /// Open what [`wrap_signing_key`] made.
    pub fn unwrap_signing_key(
        &self,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<SigningKey, SealingError> {
        SigningKey::from_seed(self.unwrap_key(wrap, "signing", info, aad)?)
            .map_err(|_| SealingError::malformed("not an Ed25519 seed"))
    }

    /// Open what [`wrap_secret_key`] made.
    pub fn unwrap_secret_key(
        &self,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<SecretKey, SealingError> {
        SecretKey::from_bytes(self.unwrap_key(wrap, "secret", info, aad)?)
            .map_err(|_| SealingError::malformed("not a key of 32 bytes"))
    }

    fn unwrap_key(
        &self,
        wrap: &[u8],
        kind: &str,
        info: &[u8],
        aad: &[u8],
    ) -> Result<SecretBytes, SealingError> {
        if wrap.len() != WRAP_OVERHEAD + SEED_BYTES {
            return Err(SealingError::malformed("a key's wrap has 1168 bytes"));
        }
        self.unwrap(wrap, &key_info(info, kind), aad)
    }

    /// Open the wrap of a file key.
    pub fn unwrap_file_key(
        &self,
        wrap: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<FileKey, SealingError> {
        if wrap.len() != WRAP_OVERHEAD + FILE_KEY_BYTES {
            return Err(SealingError::malformed("a file key's wrap has 1152 bytes"));
        }
        Ok(FileKey(Arc::new(self.unwrap(wrap, info, aad)?)))
    }
}

/// The file key of one age file, shared by handle.
#[derive(Clone)]
pub struct FileKey(Arc<SecretBytes>);

impl FileKey {
    pub(crate) fn copy_of(bytes: &[u8; FILE_KEY_BYTES]) -> Option<Self> {
        SecretBytes::copy_of(bytes).map(|bytes| Self(Arc::new(bytes)))
    }

    /// The library's form of it, for one call; it is wiped when it is dropped.
    pub(crate) fn for_age(&self) -> AgeFileKey {
        self.0
            .with(|bytes| AgeFileKey::init_with_mut(|room| room.copy_from_slice(bytes)))
    }

    /// Wrap it to a public key.
    pub fn wrap(&self, to: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealingError> {
        self.0.with(|bytes| wrap(to, bytes, info, aad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reject;

    #[test]
    fn wraps_fit_one_key_info_and_aad() {
        let (ours, other) = (HpkeKey::generate().unwrap(), HpkeKey::generate().unwrap());
        let made = wrap(ours.public(), b"secret", b"info", b"aad").unwrap();
        assert_eq!(made.len(), WRAP_OVERHEAD + 6);
        let open = |key: &HpkeKey, wrap: &[u8], info: &[u8], aad: &[u8]| {
            key.unwrap(wrap, info, aad)
                .map(|out| out.with(|b| b.to_vec()))
        };
        assert_eq!(open(&ours, &made, b"info", b"aad").unwrap(), b"secret");
        for result in [
            open(&other, &made, b"info", b"aad"),
            open(&ours, &made, b"inf0", b"aad"),
            open(&ours, &made, b"info", b"aae"),
            open(&ours, &made[..made.len() - 1], b"info", b"aad"),
        ] {
            assert!(matches!(
                result,
                Err(SealingError::Rejected(Reject::KeyRefused, _))
            ));
        }
        assert!(ours.unwrap_file_key(&made, b"info", b"aad").is_err());
        assert!(wrap(&[0; 1215], b"", b"", b"").is_err());
    }

    #[test]
    fn keys_pass_by_wrap_and_keep_their_kind() {
        let to = HpkeKey::generate().unwrap();
        let (signing, hpke) = (
            SigningKey::generate().unwrap(),
            HpkeKey::generate().unwrap(),
        );
        let made = wrap_signing_key(&signing, to.public(), b"i", b"a").unwrap();
        let again = to.unwrap_signing_key(&made, b"i", b"a").unwrap();
        assert_eq!(again.public(), signing.public());
        assert!(to.unwrap_hpke_key(&made, b"i", b"a").is_err());
        assert!(to.unwrap_secret_key(&made, b"i", b"a").is_err());
        assert!(to.unwrap_signing_key(&made, b"i", b"b").is_err());
        let made = hpke.wrap_to(to.public(), b"i", b"a").unwrap();
        let again = to.unwrap_hpke_key(&made, b"i", b"a").unwrap();
        assert_eq!(again.public(), hpke.public());
        let secret = SecretKey::generate().unwrap();
        let made = wrap_secret_key(&secret, to.public(), b"i", b"a").unwrap();
        let again = to.unwrap_secret_key(&made, b"i", b"a").unwrap();
        let sealed = again.seal(b"x", b"").unwrap();
        assert!(secret.open(&sealed, b"").is_ok());
    }

    #[test]
    fn file_keys_pass_by_wrap() {
        let key = FileKey::copy_of(&[3; 16]).unwrap();
        let to = HpkeKey::generate().unwrap();
        let made = key.wrap(to.public(), b"i", b"a").unwrap();
        let again = to.unwrap_file_key(&made, b"i", b"a").unwrap();
        assert_eq!(again.0.with(|b| b.to_vec()), [3; 16]);
    }
}
