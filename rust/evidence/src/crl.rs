//! Certificate revocation lists (RFC 5280, section 5).
use crate::x509::{self, Extension};
use crate::{unsupported, EvidenceError, CRL_BYTES};
use std::collections::HashSet;
use x509_parser::asn1_rs::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// A revocation list that was read, and believed in nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Issuer, DER.
    pub issuer_der: Vec<u8>,
    /// Issuer as text.
    pub issuer: String,
    /// When it was made, Unix time.
    pub this_update: i64,
    /// When the next one is due, Unix time.
    pub next_update: Option<i64>,
    /// Serial numbers in the form of `Certificate::serial`.
    pub revoked: HashSet<Vec<u8>>,
    /// The list's extensions.
    pub extensions: Vec<Extension>,
    /// The signed part.
    pub tbs: Vec<u8>,
    /// The signature's bytes.
    pub signature: Vec<u8>,
    /// As `Certificate::signature_algorithm`.
    pub signature_algorithm: String,
}

impl Crl {
    /// Read a revocation list.
    pub fn parse(bytes: &[u8]) -> Result<Crl, EvidenceError> {
        if bytes.len() > CRL_BYTES {
            return Err(EvidenceError::TooLarge(
                "a revocation list has 4 MiB at most",
            ));
        }
        let Ok((rest, parsed)) = CertificateRevocationList::from_der(bytes) else {
            return Err(EvidenceError::Malformed(
                "not a certificate revocation list",
            ));
        };
        let tbs = &parsed.tbs_cert_list;
        if !rest.is_empty() || parsed.signature_value.unused_bits != 0 {
            return Err(EvidenceError::Malformed(
                "a revocation list with something after its end",
            ));
        }
        if parsed.signature_algorithm != tbs.signature {
            return Err(EvidenceError::Malformed(
                "the revocation list names two signature algorithms",
            ));
        }
        let mut revoked = HashSet::with_capacity(tbs.revoked_certificates.len());
        for entry in &tbs.revoked_certificates {
            // The one critical entry extension, certificateIssuer, says that the entry is about another CA's
            // certificate (section 5.3.3). None of the vendors' lists has it.
            if entry
                .extensions()
                .iter()
                .any(|extension| extension.critical)
            {
                return unsupported("a revocation list with critical entry extensions");
            }
            revoked.insert(x509::serial(entry.raw_serial(), true)?);
        }
        Ok(Crl {
            issuer_der: tbs.issuer.as_raw().to_vec(),
            issuer: crate::name::text(&tbs.issuer),
            this_update: tbs.this_update.timestamp(),
            next_update: tbs.next_update.map(|time| time.timestamp()),
            revoked,
            extensions: x509::extensions(tbs.extensions())?,
            tbs: tbs.as_ref().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            signature_algorithm: x509::algorithm_name(&parsed.signature_algorithm, false)?,
        })
    }
}
