//! One door for all signatures of evidence.
use crate::der::{self, tlv, unsigned};
use crate::key::{Curve, PublicKey, RSA_BITS};
use crate::{keystone, unsupported, EvidenceError, SIGNATURE_BYTES, SIGNED_BYTES};
use aws_lc_rs::signature::{self as lc, UnparsedPublicKey, VerificationAlgorithm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// The curve is the key's where the name leaves it open, as the names in certificates do.
    Ecdsa(Option<Curve>, Hash, Form),
    Pkcs1(Hash),
    Pss(Hash),
    Ed25519,
    Keystone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// r || s, each as long as the curve's field.
    Fixed,
    /// SEQUENCE of two INTEGERs (RFC 5480, appendix A).
    Der,
}

impl Algorithm {
    fn from_name(name: &str) -> Option<Algorithm> {
        match name {
            "rsa-pkcs1-sha1" => return Some(Algorithm::Pkcs1(Hash::Sha1)),
            "rsa-pkcs1-sha256" => return Some(Algorithm::Pkcs1(Hash::Sha256)),
            "rsa-pkcs1-sha384" => return Some(Algorithm::Pkcs1(Hash::Sha384)),
            "rsa-pkcs1-sha512" => return Some(Algorithm::Pkcs1(Hash::Sha512)),
            "rsa-pss-sha256" => return Some(Algorithm::Pss(Hash::Sha256)),
            "rsa-pss-sha384" => return Some(Algorithm::Pss(Hash::Sha384)),
            "rsa-pss-sha512" => return Some(Algorithm::Pss(Hash::Sha512)),
            "ed25519" => return Some(Algorithm::Ed25519),
            "ed25519-sha3-512" => return Some(Algorithm::Keystone),
            _ => {}
        }
        let rest = name.strip_prefix("ecdsa-")?;
        let (rest, form) = match rest.strip_suffix("-der") {
            Some(rest) => (rest, Form::Der),
            None => (rest, Form::Fixed),
        };
        let (curve, hash) = match rest.split_once('-') {
            Some((curve, hash)) => (Some(Curve::from_name(curve)?), hash),
            None => (None, rest),
        };
        let hash = match hash {
            "sha256" => Hash::Sha256,
            "sha384" => Hash::Sha384,
            "sha512" => Hash::Sha512,
            _ => return None,
        };
        Some(Algorithm::Ecdsa(curve, hash, form))
    }
}

/// Verify `signature` over `message` by the key in `spki`, under the algorithm of this name.
pub fn verify_signature(
    algorithm: &str,
    spki: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), EvidenceError> {
    if signature.len() > SIGNATURE_BYTES || message.len() > SIGNED_BYTES {
        return Err(EvidenceError::TooLarge(
            "a signature has 1024 bytes at most, a signed message 4 MiB",
        ));
    }
    let Some(algorithm) = Algorithm::from_name(algorithm) else {
        return unsupported(format!(
            "the signature algorithm {:.64?} is not accepted",
            algorithm
        ));
    };
    match (algorithm, PublicKey::from_spki(spki)?) {
        (Algorithm::Ecdsa(named, hash, form), PublicKey::Ec(curve, point))
            if named.is_none_or(|name| name == curve) =>
        {
            ecdsa(curve, hash, form, &point, signature, message)
        }
        (Algorithm::Pkcs1(_) | Algorithm::Pss(_), PublicKey::Rsa(_, bits))
            if !RSA_BITS.contains(&bits) =>
        {
            unsupported(format!("an RSA key of {bits} bits"))
        }
        (Algorithm::Pkcs1(hash), PublicKey::Rsa(key, _)) => {
            check(pkcs1(hash), &key, signature, message)
        }
        (Algorithm::Pss(hash), PublicKey::Rsa(key, _)) => {
            check(pss(hash), &key, signature, message)
        }
        (Algorithm::Ed25519, PublicKey::Ed25519(key)) => {
            check(&lc::ED25519, &key, signature, message)
        }
        (Algorithm::Keystone, PublicKey::Ed25519(key)) => match signature.try_into() {
            Ok(signature) => keystone::verify(&key, signature, message),
            Err(_) => Err(EvidenceError::Malformed(
                "an Ed25519 signature has 64 bytes",
            )),
        },
        _ => Err(EvidenceError::SignatureInvalid(
            "the key is not of the signature algorithm's kind",
        )),
    }
}

fn check(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), EvidenceError> {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .map_err(|_| EvidenceError::SignatureInvalid("the signature does not verify"))
}

fn ecdsa(
    curve: Curve,
    hash: Hash,
    form: Form,
    point: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), EvidenceError> {
    // An SPKI may also hold a compressed point; only one form per key is accepted, so that hashes of keys mean them.
    if point.len() != 1 + 2 * curve.field_bytes() || point[0] != 4 {
        return unsupported("a compressed or hybrid curve point");
    }
    let algorithm: &'static dyn VerificationAlgorithm = match (curve, hash) {
        (Curve::P256, Hash::Sha256) => &lc::ECDSA_P256_SHA256_ASN1,
        (Curve::P256, Hash::Sha384) => &lc::ECDSA_P256_SHA384_ASN1,
        (Curve::P256, Hash::Sha512) => &lc::ECDSA_P256_SHA512_ASN1,
        (Curve::P384, Hash::Sha256) => &lc::ECDSA_P384_SHA256_ASN1,
        (Curve::P384, Hash::Sha384) => &lc::ECDSA_P384_SHA384_ASN1,
        (Curve::P384, Hash::Sha512) => &lc::ECDSA_P384_SHA512_ASN1,
        (Curve::P521, Hash::Sha256) => &lc::ECDSA_P521_SHA256_ASN1,
        (Curve::P521, Hash::Sha384) => &lc::ECDSA_P521_SHA384_ASN1,
        (Curve::P521, Hash::Sha512) => &lc::ECDSA_P521_SHA512_ASN1,
        (_, Hash::Sha1) => return unsupported("ECDSA with SHA-1"),
    };
    match form {
        Form::Der => check(algorithm, point, signature, message),
        Form::Fixed => {
            if signature.len() != 2 * curve.field_bytes() {
                return Err(EvidenceError::Malformed(
                    "an ECDSA signature is r || s, each as long as the curve's field",
                ));
            }
            let (r, s) = signature.split_at(curve.field_bytes());
            let encoded = tlv(der::SEQUENCE, &[&unsigned(r), &unsigned(s)]);
            check(algorithm, point, &encoded, message)
        }
    }
}

fn pkcs1(hash: Hash) -> &'static dyn VerificationAlgorithm {
    match hash {
        // Some TPM quotes of the past are signed over SHA-1. Whether that counts is for the TEE's verifier to say.
        Hash::Sha1 => &lc::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &lc::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &lc::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &lc::RSA_PKCS1_2048_8192_SHA512,
    }
}

/// The salt is as long as the hash.
fn pss(hash: Hash) -> &'static dyn VerificationAlgorithm {
    match hash {
        Hash::Sha384 => &lc::RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &lc::RSA_PSS_2048_8192_SHA512,
        Hash::Sha1 | Hash::Sha256 => &lc::RSA_PSS_2048_8192_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_say() {
        let curve = Some(Curve::P256);
        assert_eq!(
            Algorithm::from_name("ecdsa-p256-sha384-der"),
            Some(Algorithm::Ecdsa(curve, Hash::Sha384, Form::Der))
        );
        assert_eq!(
            Algorithm::from_name("ecdsa-sha256"),
            Some(Algorithm::Ecdsa(None, Hash::Sha256, Form::Fixed))
        );
        for name in [
            "",
            "ecdsa-",
            "ecdsa-p224-sha256",
            "ecdsa-p256-sha1",
            "rsa",
            "none",
        ] {
            assert_eq!(Algorithm::from_name(name), None);
        }
    }

    #[test]
    fn nothing_panics() {
        for name in [
            "ecdsa-sha256",
            "rsa-pss-sha384",
            "ed25519",
            "ed25519-sha3-512",
        ] {
            for length in 0..80 {
                assert!(verify_signature(name, &vec![0x30; length], &[0; 64], b"m").is_err());
            }
        }
    }
}
