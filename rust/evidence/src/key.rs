//! Public keys as SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7; RFC 5480; RFC 8017; RFC 8410).
use crate::der::{self, tlv, unsigned};
use crate::{unsupported, EvidenceError, SPKI_BYTES};
use aws_lc_rs::signature::{self, ParsedPublicKey};
use x509_parser::asn1_rs::FromDer;
use x509_parser::der_parser::{oid, Oid};
use x509_parser::x509::SubjectPublicKeyInfo;

/// RSA moduli that are accepted, in bits: aws-lc-rs takes no others.
pub(crate) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Curves of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) fn field_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// DER of the named curve's object identifier (RFC 5480, section 2.1.1.1).
    fn oid_der(self) -> &'static [u8] {
        match self {
            Curve::P256 => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Curve::P384 => &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
            Curve::P521 => &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
        }
    }

    fn from_oid(oid: &Oid) -> Option<Curve> {
        if *oid == oid!(1.2.840 .10045 .3 .1 .7) {
            Some(Curve::P256)
        } else if *oid == oid!(1.3.132 .0 .34) {
            Some(Curve::P384)
        } else if *oid == oid!(1.3.132 .0 .35) {
            Some(Curve::P521)
        } else {
            None
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Curve> {
        match name {
            "p256" => Some(Curve::P256),
            "p384" => Some(Curve::P384),
            "p521" => Some(Curve::P521),
            _ => None,
        }
    }
}

/// id-ecPublicKey.
const EC_PUBLIC_KEY: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// The AlgorithmIdentifier of rsaEncryption with its NULL.
const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];

/// A public key by its kind, with the bytes that the verifying library takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// X9.62 point.
    Ec(Curve, Vec<u8>),
    /// RSAPublicKey and the modulus's length in bits.
    Rsa(Vec<u8>, usize),
    Ed25519([u8; 32]),
}

impl PublicKey {
    pub(crate) fn from_spki(spki: &[u8]) -> Result<PublicKey, EvidenceError> {
        if spki.len() > SPKI_BYTES {
            return Err(EvidenceError::TooLarge(
                "a public key has 2048 bytes at most",
            ));
        }
        let malformed = EvidenceError::Malformed("not a SubjectPublicKeyInfo");
        let Ok((rest, info)) = SubjectPublicKeyInfo::from_der(spki) else {
            return Err(malformed);
        };
        let bits = &info.subject_public_key;
        if !rest.is_empty() || bits.unused_bits != 0 {
            return Err(malformed);
        }
        let algorithm = &info.algorithm.algorithm;
        if *algorithm == oid!(1.2.840 .10045 .2 .1) {
            let named = info.algorithm.parameters.as_ref();
            let Some(curve) = named.and_then(|any| Curve::from_oid(&any.clone().oid().ok()?))
            else {
                return unsupported("a key on a curve other than P-256, P-384 and P-521");
            };
            Ok(PublicKey::Ec(curve, bits.data.to_vec()))
        } else if *algorithm == oid!(1.2.840 .113549 .1 .1 .1)
            || *algorithm == oid!(1.2.840 .113549 .1 .1 .10)
        {
            let modulus = rsa_modulus(&bits.data).ok_or(malformed)?;
            Ok(PublicKey::Rsa(bits.data.to_vec(), modulus))
        } else if *algorithm == oid!(1.3.101 .112) {
            let key = bits.data.as_ref().try_into().map_err(|_| malformed)?;
            Ok(PublicKey::Ed25519(key))
        } else {
            unsupported(format!("a public key of the kind {algorithm}"))
        }
    }
}

/// Length in bits of an RSAPublicKey's modulus (RFC 8017, appendix A.1.1).
fn rsa_modulus(key: &[u8]) -> Option<usize> {
    match x509_parser::public_key::RSAPublicKey::from_der(key) {
        Ok(([], parsed)) => {
            let modulus = der::trim(parsed.modulus);
            let first = modulus.first()?;
            Some(modulus.len() * 8 - first.leading_zeros() as usize)
        }
        _ => None,
    }
}

/// SubjectPublicKeyInfo of a point, `04 || x || y` or `x || y`, that lies on the curve "p256", "p384" or "p521".
pub fn spki_from_point(curve: &str, point: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    let Some(curve) = Curve::from_name(curve) else {
        return unsupported("the curves are p256, p384 and p521");
    };
    let coordinates = match point {
        [4, rest @ ..] if rest.len() == 2 * curve.field_bytes() => rest,
        rest if rest.len() == 2 * curve.field_bytes() => rest,
        _ => {
            return Err(EvidenceError::Malformed(
                "not an uncompressed point of this curve",
            ))
        }
    };
    let encoded = [&[4], coordinates].concat();
    let algorithm = match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1,
        Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        Curve::P521 => &signature::ECDSA_P521_SHA512_ASN1,
    };
    ParsedPublicKey::new(algorithm, &encoded)
        .map_err(|_| EvidenceError::Malformed("the point is not on the curve"))?;
    let algorithm = tlv(der::SEQUENCE, &[EC_PUBLIC_KEY, curve.oid_der()]);
    let key = tlv(der::BIT_STRING, &[&[0], &encoded]);
    Ok(tlv(der::SEQUENCE, &[&algorithm, &key]))
}

/// SubjectPublicKeyInfo of an RSA key from its big-endian modulus and exponent.
pub fn spki_from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    let (modulus, exponent) = (der::trim(modulus), der::trim(exponent));
    if modulus.len() > RSA_BITS.end() / 8 || exponent.len() > 8 {
        return Err(EvidenceError::TooLarge(
            "an RSA modulus has 8192 bits at most, an exponent 64",
        ));
    }
    if modulus.is_empty() || exponent.is_empty() {
        return Err(EvidenceError::Malformed("an RSA key with a zero in it"));
    }
    let key = tlv(der::SEQUENCE, &[&unsigned(modulus), &unsigned(exponent)]);
    let key = tlv(der::BIT_STRING, &[&[0], &key]);
    Ok(tlv(der::SEQUENCE, &[RSA_ENCRYPTION, &key]))
}
