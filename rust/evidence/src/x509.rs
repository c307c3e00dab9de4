//! Certificates (RFC 5280), as much of them as a chain of attestation keys needs.
use crate::key::PublicKey;
use crate::{der, name, EvidenceError, CERTIFICATE_BYTES, CERTIFICATE_EXTENSIONS};
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::certificate::X509CertificateParser;
use x509_parser::der_parser::{oid, Oid};
use x509_parser::extensions::{BasicConstraints, KeyUsage, X509Extension};
use x509_parser::nom::Parser;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

/// One extension: object identifier, critical, and the value's bytes.
pub type Extension = (String, bool, Vec<u8>);

/// A certificate that was read, and believed in nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// All of it.
    pub der: Vec<u8>,
    /// The signed part.
    pub tbs: Vec<u8>,
    /// The signature's bytes.
    pub signature: Vec<u8>,
    /// A name that `verify_signature` takes, or `oid:` and the identifier of an algorithm that it does not.
    pub signature_algorithm: String,
    /// SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Subject as text.
    pub subject: String,
    /// Issuer as text.
    pub issuer: String,
    /// Subject, DER.
    pub subject_der: Vec<u8>,
    /// Issuer, DER.
    pub issuer_der: Vec<u8>,
    /// The shortest two's complement, big-endian.
    pub serial: Vec<u8>,
    /// First valid second, Unix time.
    pub not_before: i64,
    /// Last valid second, Unix time.
    pub not_after: i64,
    /// The CA flag of the basic constraints, if it has any.
    pub is_ca: Option<bool>,
    /// The path length of the basic constraints, if they have one.
    pub path_length: Option<u32>,
    /// The bits of the key usage, if it has one: bit 5 signs certificates, bit 6 revocation lists.
    pub key_usage: Option<u16>,
    /// All extensions in their order; none occurs twice.
    pub extensions: Vec<Extension>,
}

impl Certificate {
    /// Read a certificate.
    ///
    /// `lenient` accepts what the certificates of Gramine and Open Enclave have wrong: a negative serial number,
    /// algorithm parameters where none belong or none where NULL belongs, two algorithm identifiers that differ in
    /// their parameters, a public key that we could not use, and unreadable basic constraints or key usage (which
    /// then allow nothing: the certificate is no CA). A serial number of 0 is always accepted: AMD's have it.
    pub fn parse(bytes: &[u8], lenient: bool) -> Result<Certificate, EvidenceError> {
        if bytes.len() > CERTIFICATE_BYTES {
            return Err(EvidenceError::TooLarge("a certificate has 64 KiB at most"));
        }
        // Step 1: the structure, to the last byte (section 4.1).
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let Ok((rest, parsed)) = parser.parse(bytes) else {
            return Err(EvidenceError::Malformed("not an X.509 certificate"));
        };
        let tbs = &parsed.tbs_certificate;
        if !rest.is_empty() || parsed.signature_value.unused_bits != 0 {
            return Err(EvidenceError::Malformed(
                "a certificate with something after its end",
            ));
        }
        // Step 2: the serial number (section 4.1.2.2) and the algorithm identifiers (sections 4.1.1.2, 4.1.2.3).
        let serial = serial(tbs.raw_serial(), lenient)?;
        let (outer, inner) = (&parsed.signature_algorithm, &tbs.signature);
        if outer.algorithm != inner.algorithm || (!lenient && outer.parameters != inner.parameters)
        {
            return Err(EvidenceError::Malformed(
                "the certificate names two signature algorithms",
            ));
        }
        // The outer identifier is not signed: it must be the inner one to the last bit.
        if !lenient && !repeats_algorithm(bytes, tbs.as_ref(), tbs.raw_serial()) {
            return Err(EvidenceError::Malformed(
                "the certificate's two algorithm identifiers are not the same bytes",
            ));
        }
        let signature_algorithm = algorithm_name(outer, lenient)?;
        // Step 3: a key that `verify_signature` could read, were it asked. Others' kinds are left for it to refuse.
        let spki = tbs.subject_pki.raw;
        match PublicKey::from_spki(spki) {
            Err(EvidenceError::Malformed(_)) if !lenient => {
                return Err(EvidenceError::Malformed(
                    "the certificate's key is malformed",
                ))
            }
            _ => {}
        }
        // Step 4: the extensions (section 4.2).
        let extensions = extensions(tbs.extensions())?;
        let (is_ca, path_length) = match constraints(&extensions) {
            Err(error) if !lenient => return Err(error),
            other => other.unwrap_or((None, None)),
        };
        let key_usage = match key_usage(&extensions) {
            Err(error) if !lenient => return Err(error),
            Err(_) => Some(0),
            Ok(found) => found,
        };
        Ok(Certificate {
            der: bytes.to_vec(),
            tbs: tbs.as_ref().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            signature_algorithm,
            spki: spki.to_vec(),
            subject: name::text(&tbs.subject),
            issuer: name::text(&tbs.issuer),
            subject_der: tbs.subject.as_raw().to_vec(),
            issuer_der: tbs.issuer.as_raw().to_vec(),
            serial,
            not_before: tbs.validity.not_before.timestamp(),
            not_after: tbs.validity.not_after.timestamp(),
            is_ca,
            path_length,
            key_usage,
            extensions,
        })
    }
}

pub(crate) fn serial(content: &[u8], lenient: bool) -> Result<Vec<u8>, EvidenceError> {
    match content.first() {
        None => Err(EvidenceError::Malformed("an empty serial number")),
        Some(first) if first & 0x80 != 0 && !lenient => {
            Err(EvidenceError::Malformed("a negative serial number"))
        }
        Some(_) => Ok(der::shortest(content).to_vec()),
    }
}

pub(crate) fn extensions(list: &[X509Extension]) -> Result<Vec<Extension>, EvidenceError> {
    if list.len() > CERTIFICATE_EXTENSIONS {
        return Err(EvidenceError::TooLarge("there are 64 extensions at most"));
    }
    let mut found: Vec<Extension> = Vec::with_capacity(list.len());
    for extension in list {
        let id = extension.oid.to_id_string();
        if found.iter().any(|(known, ..)| *known == id) {
            return Err(EvidenceError::Malformed("an extension occurs twice"));
        }
        found.push((id, extension.critical, extension.value.to_vec()));
    }
    Ok(found)
}

fn value<'a>(extensions: &'a [Extension], id: &str) -> Option<&'a [u8]> {
    let found = extensions.iter().find(|(known, ..)| known == id)?;
    Some(&found.2)
}

/// Basic constraints (section 4.2.1.9).
fn constraints(extensions: &[Extension]) -> Result<(Option<bool>, Option<u32>), EvidenceError> {
    match value(extensions, "2.5.29.19").map(BasicConstraints::from_der) {
        None => Ok((None, None)),
        Some(Ok(([], found))) => Ok((Some(found.ca), found.path_len_constraint)),
        Some(_) => Err(EvidenceError::Malformed("unreadable basic constraints")),
    }
}

/// Key usage (section 4.2.1.3).
fn key_usage(extensions: &[Extension]) -> Result<Option<u16>, EvidenceError> {
    match value(extensions, "2.5.29.15").map(KeyUsage::from_der) {
        None => Ok(None),
        Some(Ok(([], found))) => Ok(Some(found.flags)),
        Some(_) => Err(EvidenceError::Malformed("unreadable key usage")),
    }
}

/// The name of a signature algorithm (RFC 4055, RFC 5758, RFC 8017, RFC 8410).
pub(crate) fn algorithm_name(
    identifier: &AlgorithmIdentifier,
    lenient: bool,
) -> Result<String, EvidenceError> {
    let id = &identifier.algorithm;
    let parameters = identifier.parameters.as_ref();
    let null = parameters.is_some_and(|any| any.tag() == Tag::Null && any.data.is_empty());
    let (name, right) = match id.to_id_string().as_str() {
        "1.2.840.113549.1.1.5" => ("rsa-pkcs1-sha1", null || parameters.is_none()),
        "1.2.840.113549.1.1.11" => ("rsa-pkcs1-sha256", null || parameters.is_none()),
        "1.2.840.113549.1.1.12" => ("rsa-pkcs1-sha384", null || parameters.is_none()),
        "1.2.840.113549.1.1.13" => ("rsa-pkcs1-sha512", null || parameters.is_none()),
        "1.2.840.10045.4.3.2" => ("ecdsa-sha256-der", parameters.is_none()),
        "1.2.840.10045.4.3.3" => ("ecdsa-sha384-der", parameters.is_none()),
        "1.2.840.10045.4.3.4" => ("ecdsa-sha512-der", parameters.is_none()),
        "1.3.101.112" => ("ed25519", parameters.is_none()),
        "1.2.840.113549.1.1.10" => {
            return Ok(match parameters.and_then(pss_name) {
                Some(name) => name.to_owned(),
                None => format!("oid:{}", id.to_id_string()),
            })
        }
        other => return Ok(format!("oid:{other}")),
    };
    if right || lenient {
        Ok(name.to_owned())
    } else {
        Err(EvidenceError::Malformed(
            "the signature algorithm has parameters that do not belong to it",
        ))
    }
}

/// RSASSA-PSS with the same hash for message and mask, and a salt as long as the hash (RFC 4055, section 3.1).
fn pss_name(parameters: &Any) -> Option<&'static str> {
    let parsed = RsaSsaPssParams::try_from(parameters).ok()?;
    let hash = parsed.hash_algorithm_oid();
    let mask = parsed.mask_gen_algorithm().ok()?;
    let mgf1: Oid = oid!(1.2.840 .113549 .1 .1 .8);
    if mask.mgf != mgf1 || mask.hash != *hash || parsed.trailer_field() != 1 {
        return None;
    }
    match (hash.to_id_string().as_str(), parsed.salt_length()) {
        ("2.16.840.1.101.3.4.2.1", 32) => Some("rsa-pss-sha256"),
        ("2.16.840.1.101.3.4.2.2", 48) => Some("rsa-pss-sha384"),
        ("2.16.840.1.101.3.4.2.3", 64) => Some("rsa-pss-sha512"),
        _ => None,
    }
}

/// Whether the bytes after the signed part begin with those that follow the serial number in it. Both parts are
/// slices of `bytes`.
fn repeats_algorithm(bytes: &[u8], tbs: &[u8], serial: &[u8]) -> bool {
    let offset =
        |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize) + part.len();
    let (inner, outer) = (bytes.get(offset(serial)..), bytes.get(offset(tbs)..));
    let (Some(inner), Some(outer)) = (inner, outer) else {
        return false;
    };
    // A SEQUENCE whose length is one byte: no algorithm's identifier needs 128 bytes.
    match inner {
        [0x30, length, ..] if *length < 0x80 => {
            let end = usize::from(*length) + 2;
            // The parser does not look at the class of these two tags: SEQUENCE around all, BIT STRING next.
            bytes[0] == 0x30
                && outer.get(end) == Some(&0x03)
                && inner.get(..end) == outer.get(..end)
        }
        _ => false,
    }
}
