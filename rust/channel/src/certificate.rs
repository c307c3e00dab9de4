//! Certificates that peers make themselves (RFC 5280, RFC 8410): parsed strictly, because the bytes are hostile.

use mesatee_custody::{verify_ed25519, SigningKey};
use std::time::Duration;
use x509_parser::certificate::X509CertificateParser;
use x509_parser::der_parser::oid;
use x509_parser::nom::Parser;
use x509_parser::prelude::{AlgorithmIdentifier, X509Version};

/// A certificate with its evidence, in bytes (`protocol.limits.CERTIFICATE_BYTES`).
pub const CERTIFICATE_BYTES: usize = 64 * 1024;
/// The evidence extension's value, in bytes (`protocol.limits.EVIDENCE_BYTES`).
pub const EVIDENCE_BYTES: usize = 48 * 1024;
/// A common name, in characters (RFC 5280, appendix A.1, ub-common-name).
const COMMON_NAME_CHARS: usize = 64;
/// How far a validity period may miss this machine's clock, in seconds (`protocol.limits.CLOCK_SKEW_SECONDS`).
const SKEW_SECONDS: i64 = 300;
/// 9999-12-31T23:59:59Z, the last second that X.509 can express (RFC 5280, section 4.1.2.5).
const LAST_SECOND: i64 = 253_402_300_799;
/// tcg-dice-TaggedEvidence, 2.23.133.5.4.9 (TCG DICE Attestation Architecture 1.1, section 6).
const EVIDENCE_OID: [u64; 6] = [2, 23, 133, 5, 4, 9];
/// What stands before the 32 key bytes in the only DER form of an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// What stands before the 64 bytes of an Ed25519 signature: algorithm, and the head of the bit string (RFC 8410, section 6).
const SIGNATURE_PREFIX: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x41, 0x00];

/// Why a certificate is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// Not a certificate of the expected form.
    Malformed(&'static str),
    /// Over a named limit.
    TooLarge(&'static str),
    /// Its signature over itself does not verify.
    SignatureInvalid,
    /// Another algorithm or version.
    Unsupported(&'static str),
    /// Not yet, or no longer, valid at the time given.
    OutsideValidity,
    /// It certifies another key than the one given with it.
    OtherKey,
}

impl CertificateError {
    /// A sentence without values from the certificate.
    pub fn message(self) -> &'static str {
        match self {
            Self::Malformed(message) | Self::TooLarge(message) | Self::Unsupported(message) => {
                message
            }
            Self::SignatureInvalid => "the certificate's signature over itself does not verify",
            Self::OutsideValidity => "the certificate is not valid at this time",
            Self::OtherKey => "the certificate is of another key",
        }
    }
}

/// A certificate that is well-formed and signed by its own key. Whether that key is to be trusted is the appraiser's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    der: Vec<u8>,
    public: [u8; 32],
    evidence: Option<Vec<u8>>,
    not_before: i64,
    not_after: i64,
}

impl PeerCertificate {
    /// The certificate's bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// DER of the SubjectPublicKeyInfo.
    pub fn spki(&self) -> Vec<u8> {
        spki(&self.public)
    }

    /// The raw Ed25519 key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The value of extension 2.23.133.5.4.9.
    pub fn evidence(&self) -> Option<&[u8]> {
        self.evidence.as_deref()
    }

    /// Start of validity, seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second of validity, seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Refuse outside of the validity period, give or take five minutes (RFC 5280, section 4.1.2.5).
    pub fn check_validity(&self, now: i64) -> Result<(), CertificateError> {
        let early = now.saturating_add(SKEW_SECONDS) < self.not_before;
        let late = now.saturating_sub(SKEW_SECONDS) > self.not_after;
        if early || late {
            return Err(CertificateError::OutsideValidity);
        }
        Ok(())
    }
}

/// Parse a certificate and check its signature over itself. Reads no clock.
///
/// 1. Size, and one DER value with nothing after it.
/// 2. Version 3; Ed25519 without parameters in all three places (RFC 8410, sections 3 and 4).
/// 3. Issuer equals subject, no unique identifiers.
/// 4. Each extension at most once; none critical that is not understood (RFC 5280, section 4.2); evidence within its limit.
/// 5. What no signature covers has the one DER form; the signature over the to-be-signed part verifies under the certificate's own key.
pub fn parse_certificate(der: &[u8]) -> Result<PeerCertificate, CertificateError> {
    use CertificateError::{Malformed, TooLarge, Unsupported};
    // 1.
    if der.len() > CERTIFICATE_BYTES {
        return Err(TooLarge("the certificate is over CERTIFICATE_BYTES"));
    }
    // Extension contents stay opaque: what we do not need, we do not parse.
    let (rest, certificate) = X509CertificateParser::new()
        .with_deep_parse_extensions(false)
        .parse(der)
        .map_err(|_| Malformed("not an X.509 certificate in DER"))?;
    if !rest.is_empty() {
        return Err(Malformed("bytes after the certificate"));
    }
    let tbs = &certificate.tbs_certificate;
    // 2.
    if tbs.version != X509Version::V3 {
        return Err(Unsupported("not an X.509 version 3 certificate"));
    }
    if !is_ed25519(&tbs.signature) || !is_ed25519(&certificate.signature_algorithm) {
        return Err(Unsupported("the certificate is not signed with Ed25519"));
    }
    let public: [u8; 32] = tbs
        .subject_pki
        .raw
        .strip_prefix(&SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .ok_or(Unsupported("the certificate's key is not Ed25519"))?;
    // 3.
    if tbs.issuer.as_raw() != tbs.subject.as_raw() {
        return Err(Malformed("the certificate is not issued by its subject"));
    }
    if tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
        return Err(Malformed("the certificate has unique identifiers"));
    }
    // 4.
    let extensions = tbs
        .extensions_map()
        .map_err(|_| Malformed("the certificate repeats an extension"))?;
    let mut evidence = None;
    for (identifier, extension) in extensions {
        if identifier == oid!(2.23.133 .5 .4 .9) {
            if extension.value.len() > EVIDENCE_BYTES {
                return Err(TooLarge("the evidence is over EVIDENCE_BYTES"));
            }
            evidence = Some(extension.value.to_vec());
        } else if extension.critical {
            return Err(Unsupported(
                "the certificate has a critical extension that is not understood",
            ));
        }
    }
    // 5.
    let signature = unsigned_part(der, tbs.as_ref()).ok_or(Malformed(
        "the certificate's signature is not in the one DER form",
    ))?;
    verify_ed25519(&public, signature, tbs.as_ref())
        .map_err(|_| CertificateError::SignatureInvalid)?;
    Ok(PeerCertificate {
        der: der.to_vec(),
        public,
        evidence,
        not_before: tbs.validity.not_before.timestamp(),
        not_after: tbs.validity.not_after.timestamp(),
    })
}

/// The signature, if everything around the to-be-signed part is encoded in the one way that DER allows.
///
/// No signature covers these bytes, and the parser is lenient about their tags; without this check one certificate would
/// have several forms with different digests.
fn unsigned_part<'a>(der: &'a [u8], tbs: &[u8]) -> Option<&'a [u8]> {
    let content = tbs.len() + SIGNATURE_PREFIX.len() + 64;
    let header = der.len().checked_sub(content)?;
    let shortest = match content {
        0..=0x7f => 2,
        0x80..=0xff => 3,
        0x100..=0xffff => 4,
        _ => 5,
    };
    if header != shortest || der.first() != Some(&0x30) {
        return None;
    }
    der.get(header..)?
        .strip_prefix(tbs)?
        .strip_prefix(&SIGNATURE_PREFIX)
}

fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == oid!(1.3.101 .112) && algorithm.parameters.is_none()
}

/// DER SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
pub fn spki(public: &[u8; 32]) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), public].concat()
}

/// rcgen's remote signer: rcgen builds the bytes, custody signs them.
struct RemoteKey<'a> {
    key: &'a SigningKey,
    public: [u8; 32],
}

impl rcgen::PublicKeyData for RemoteKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for RemoteKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).to_vec())
    }
}

/// A self-signed X.509 version 3 certificate in DER. Times are seconds since 1970.
pub fn make_certificate(
    key: &SigningKey,
    common_name: &str,
    not_before: i64,
    not_after: i64,
    evidence: Option<&[u8]>,
) -> Result<Vec<u8>, CertificateError> {
    use CertificateError::{Malformed, TooLarge};
    if common_name.is_empty() || common_name.chars().count() > COMMON_NAME_CHARS {
        return Err(Malformed("a common name has 1 to 64 characters"));
    }
    if evidence.is_some_and(|value| value.len() > EVIDENCE_BYTES) {
        return Err(TooLarge("the evidence is over EVIDENCE_BYTES"));
    }
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, common_name);
    if not_before > not_after {
        return Err(Malformed("the validity ends before it begins"));
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let instant = |seconds: i64| match u64::try_from(seconds) {
        Ok(after) if seconds <= LAST_SECOND => Ok(epoch + Duration::from_secs(after)),
        _ => Err(Malformed("a time before 1970 or after 9999")),
    };
    params.not_before = instant(not_before)?;
    params.not_after = instant(not_after)?;
    if let Some(value) = evidence {
        params
            .custom_extensions
            .push(rcgen::CustomExtension::from_oid_content(
                &EVIDENCE_OID,
                value.to_vec(),
            ));
    }
    let remote = RemoteKey {
        key,
        public: key.public(),
    };
    let certificate = params
        .self_signed(&remote)
        .map_err(|_| Malformed("the certificate cannot be encoded"))?;
    Ok(certificate.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(evidence: Option<&[u8]>) -> (SigningKey, Vec<u8>) {
        let key = SigningKey::generate().unwrap();
        let der = make_certificate(&key, "gateway", 1_000, 2_000, evidence).unwrap();
        (key, der)
    }

    #[test]
    fn made_certificates_parse() {
        let (key, der) = made(Some(b"evidence"));
        let parsed = parse_certificate(&der).unwrap();
        assert_eq!(parsed.public(), &key.public());
        assert_eq!(parsed.spki(), spki(&key.public()));
        assert_eq!(parsed.evidence(), Some(&b"evidence"[..]));
        assert_eq!((parsed.not_before(), parsed.not_after()), (1_000, 2_000));
        assert_eq!(parsed.der(), der);
        assert_eq!(parse_certificate(&made(None).1).unwrap().evidence(), None);
    }

    #[test]
    fn no_flipped_bit_is_accepted_as_another_certificate() {
        let (_, der) = made(Some(b"evidence"));
        for (at, bit) in (0..der.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bad = der.clone();
            bad[at] ^= 1 << bit;
            assert!(parse_certificate(&bad).is_err(), "byte {at} bit {bit}");
        }
    }

    #[test]
    fn trailing_and_missing_bytes_are_refused() {
        let (_, der) = made(None);
        let longer = [der.as_slice(), &[0]].concat();
        assert_eq!(
            parse_certificate(&longer),
            Err(CertificateError::Malformed("bytes after the certificate"))
        );
        for end in 0..der.len() {
            assert!(parse_certificate(&der[..end]).is_err());
        }
    }

    #[test]
    fn evidence_limit() {
        let key = SigningKey::generate().unwrap();
        let make = |bytes: usize| make_certificate(&key, "a", 0, 1, Some(&vec![0; bytes]));
        assert!(parse_certificate(&make(EVIDENCE_BYTES).unwrap()).is_ok());
        assert!(matches!(
            make(EVIDENCE_BYTES + 1),
            Err(CertificateError::TooLarge(_))
        ));
    }

    #[test]
    fn validity_has_five_minutes_of_grace() {
        let (_, der) = made(None);
        let parsed = parse_certificate(&der).unwrap();
        for good in [700, 1_000, 2_000, 2_300] {
            assert_eq!(parsed.check_validity(good), Ok(()));
        }
        for bad in [i64::MIN, 699, 2_301, i64::MAX] {
            assert_eq!(
                parsed.check_validity(bad),
                Err(CertificateError::OutsideValidity)
            );
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let key = SigningKey::generate().unwrap();
        for (from, to) in [(2, 1), (-1, 1), (0, LAST_SECOND + 1), (i64::MIN, i64::MAX)] {
            assert!(make_certificate(&key, "a", from, to, None).is_err());
        }
        for name in ["", &"a".repeat(65)] {
            assert!(make_certificate(&key, name, 0, 1, None).is_err());
        }
        assert!(make_certificate(&key, &"a".repeat(64), 0, LAST_SECOND, None).is_ok());
    }
}
