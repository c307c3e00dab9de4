//! Authenticated decryption: AES-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439).
use crate::CryptoError;
use aws_lc_rs::aead::{
    Aad, Algorithm, LessSafeKey, Nonce, UnboundKey, AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305,
};

/// Length of the nonce of all three ciphers, in bytes.
pub const NONCE_BYTES: usize = 12;
/// Length of the tag behind the ciphertext, in bytes.
pub const TAG_BYTES: usize = 16;

/// How many bytes of plaintext `sealed`, ciphertext and tag, has.
pub fn plain_len(sealed: &[u8]) -> Result<usize, CryptoError> {
    sealed
        .len()
        .checked_sub(TAG_BYTES)
        .ok_or(CryptoError::Malformed(
            "the ciphertext is shorter than its tag of 16 bytes",
        ))
}

/// Open `sealed` into `out`, which has the length that `plain_len` told. Nothing of a forged one is left in `out`.
pub fn open_into(
    cipher: &str,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let algorithm: &'static Algorithm = match cipher {
        "aes-128-gcm" => &AES_128_GCM,
        "aes-256-gcm" => &AES_256_GCM,
        "chacha20-poly1305" => &CHACHA20_POLY1305,
        _ => {
            return Err(CryptoError::Malformed(
                "ciphers are aes-128-gcm, aes-256-gcm and chacha20-poly1305",
            ))
        }
    };
    let len = plain_len(sealed)?;
    if out.len() != len {
        return Err(CryptoError::Malformed(
            "the room is not that of the plaintext",
        ));
    }
    let key = UnboundKey::new(algorithm, key)
        .map(LessSafeKey::new)
        .map_err(|_| {
            CryptoError::Malformed(
                "the key's length is not the cipher's: 16 bytes for aes-128-gcm, 32 for the others",
            )
        })?;
    let nonce = Nonce::try_assume_unique_for_key(nonce)
        .map_err(|_| CryptoError::Malformed("the nonce has 12 bytes"))?;
    let (body, tag) = sealed.split_at(len);
    key.open_separate_gather(nonce, Aad::from(aad), body, tag, out)
        .map_err(|_| {
            out.fill(0);
            CryptoError::Refused(
                "the ciphertext does not open: it was altered or cut, or key, nonce, cipher or associated data differ",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// Test case 15 of the specification of GCM (McGrew, Viega): 256-bit key, no associated data; and one of our own
    /// changes each.
    #[test]
    fn opens_a_known_answer_and_nothing_else() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce = hex("cafebabefacedbaddecaf888");
        let sealed = hex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015adb094dac5d93471bdec1a502270e3cc6c",
        );
        let mut out = vec![7; plain_len(&sealed).unwrap()];
        open_into("aes-256-gcm", &key, &nonce, b"", &sealed, &mut out).unwrap();
        assert_eq!(out[..4], hex("d9313225")[..]);
        for at in [0, 63, 64, 79] {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            let found = open_into("aes-256-gcm", &key, &nonce, b"", &bad, &mut out);
            assert!(matches!(found, Err(CryptoError::Refused(_))));
            assert!(out.iter().all(|byte| *byte == 0));
        }
        let refused = open_into("aes-256-gcm", &key, &nonce, b"a", &sealed, &mut out);
        assert!(matches!(refused, Err(CryptoError::Refused(_))));
        for (cipher, key, nonce) in [
            ("aes-128-gcm", &key[..], &nonce[..]),
            ("aes-256-gcm", &key[..31], &nonce[..]),
            ("aes-256-gcm", &key[..], &nonce[..11]),
            ("aes-256-ctr", &key[..], &nonce[..]),
        ] {
            let found = open_into(cipher, key, nonce, b"", &sealed, &mut out);
            assert!(matches!(found, Err(CryptoError::Malformed(_))));
        }
        assert!(plain_len(&sealed[..15]).is_err());
    }
}
