//! RSA signatures (RFC 8017, sections 8.1 and 8.2) with a private key in PEM (RFC 7468) or DER.
use crate::CryptoError;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{
    self, KeyPair as _, RsaEncoding, RsaParameters, UnparsedPublicKey, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Most bytes of a private key, in PEM or DER: one of 8192 bits has some 6,400.
pub const KEY_BYTES: usize = 16 * 1024;

const NO_PEM: CryptoError = CryptoError::Malformed(
    "the key is neither PEM nor DER of one RSA private key: give PKCS#8 or PKCS#1",
);

struct Scheme(&'static dyn RsaEncoding, &'static RsaParameters);

fn scheme(name: &str) -> Result<Scheme, CryptoError> {
    Ok(match name {
        "pkcs1-sha256" => Scheme(&RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256),
        "pkcs1-sha384" => Scheme(&RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384),
        "pkcs1-sha512" => Scheme(&RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512),
        "pss-sha256" => Scheme(&RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256),
        "pss-sha384" => Scheme(&RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384),
        "pss-sha512" => Scheme(&RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512),
        _ => {
            return Err(CryptoError::Malformed(
                "schemes are pkcs1 and pss, hashes sha256, sha384 and sha512",
            ))
        }
    })
}

/// Sign `message` with the private key in `key`.
///
/// 1. The key: one PEM block, or DER; PKCS#8 or PKCS#1, 2048 to 8192 bits. AWS-LC checks that its numbers fit each other.
/// 2. Hash, pad and sign; the exponentiation is blinded. PSS takes a random salt as long as the hash.
/// 3. Verify the signature with the key's public half: one that was computed wrongly would give the key away.
pub fn sign(algorithm: &str, key: &[u8], message: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let Scheme(encoding, parameters) = scheme(algorithm)?;
    // 1.
    let pair = read(key)?;
    // 2.
    let mut made = vec![0u8; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut made)
        .map_err(|_| CryptoError::Refused("the key cannot sign: its numbers do not fit"))?;
    // 3.
    UnparsedPublicKey::new(parameters, pair.public_key().as_ref())
        .verify(message, &made)
        .map_err(|_| CryptoError::Refused("the key cannot sign: its numbers do not fit"))?;
    Ok(made)
}

fn read(key: &[u8]) -> Result<KeyPair, CryptoError> {
    if key.len() > KEY_BYTES {
        return Err(CryptoError::TooLarge("a private key has 16 KiB at most"));
    }
    let text = key.trim_ascii();
    let found = if text.starts_with(b"-----") {
        pem(text)?
    } else {
        KeyPair::from_pkcs8(key).or_else(|_| KeyPair::from_der(key))
    };
    found.map_err(|_| {
        CryptoError::Malformed(
            "the key is no RSA private key of 2048 to 8192 bits whose numbers fit each other",
        )
    })
}

type Read = Result<KeyPair, aws_lc_rs::error::KeyRejected>;

fn pem(text: &[u8]) -> Result<Read, CryptoError> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or(b"");
    let (label, pkcs8): (&[u8], bool) = match line.trim_ascii() {
        b"-----BEGIN PRIVATE KEY-----" => (b"-----END PRIVATE KEY-----", true),
        b"-----BEGIN RSA PRIVATE KEY-----" => (b"-----END RSA PRIVATE KEY-----", false),
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----" => {
            return Err(CryptoError::Malformed(
                "the key is under a password: take it off, since the whole file is sealed",
            ))
        }
        _ => return Err(NO_PEM),
    };
    let body = text[line.len()..].strip_suffix(label).ok_or(NO_PEM)?;
    let mut dense = Zeroizing::new(Vec::with_capacity(body.len()));
    dense.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![
        0u8;
        BASE64.decode_len(dense.len()).map_err(|_| NO_PEM)?
    ]);
    let len = BASE64.decode_mut(&dense, &mut der).map_err(|_| NO_PEM)?;
    Ok(if pkcs8 {
        KeyPair::from_pkcs8(&der[..len])
    } else {
        KeyPair::from_der(&der[..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::encoding::Pkcs8V1Der;
    use aws_lc_rs::rsa::KeySize;

    #[test]
    fn pem_and_der_sign_alike() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der = pair.as_der().unwrap();
        let text = format!(
            "\n-----BEGIN PRIVATE KEY-----\r\n{}\r\n-----END PRIVATE KEY-----\r\n",
            BASE64.encode(der.as_ref())
        );
        let one = sign("pkcs1-sha256", der.as_ref(), b"message").unwrap();
        let other = sign("pkcs1-sha256", text.as_bytes(), b"message").unwrap();
        assert_eq!(one, other);
        assert_ne!(
            sign("pss-sha512", der.as_ref(), b"message").unwrap(),
            sign("pss-sha512", der.as_ref(), b"message").unwrap()
        );
        for bad in [
            text.replace("END", "ENDE"),
            text.replace("BEGIN", "BEGIN RSA"),
            text.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            text.replacen('M', "!", 1),
            "-----".to_owned(),
            String::new(),
        ] {
            let found = sign("pkcs1-sha256", bad.as_bytes(), b"");
            assert!(matches!(found, Err(CryptoError::Malformed(_))), "{bad}");
        }
        assert!(matches!(
            sign("pkcs1-sha1", der.as_ref(), b""),
            Err(CryptoError::Malformed(_))
        ));
        assert!(matches!(
            sign("pkcs1-sha256", &[b' '; KEY_BYTES + 1], b""),
            Err(CryptoError::TooLarge(_))
        ));
    }
}
