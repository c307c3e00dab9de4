//! Signatures, certificates and revocation lists of attestation evidence.
//!
//! Everything here reads hostile bytes. Signatures are checked by aws-lc-rs, DER is parsed by x509-parser; ours are
//! the names, the bounds and the questions asked. Nothing here decides whom to trust: that is `attestation/chains.py`.
#![forbid(unsafe_code)]

mod crl;
mod der;
mod key;
mod keystone;
mod name;
mod pem;
mod remembered;
mod signature;
mod x509;

pub use crl::Crl;
pub use key::{spki_from_point, spki_from_rsa};
pub use pem::pem_certificates;
pub use remembered::{forget_signatures, verify_lasting_signature, SIGNATURES_CACHED};
pub use signature::verify_signature;
pub use x509::{Certificate, Extension};

/// A certificate, in bytes (`protocol.limits.CERTIFICATE_BYTES`).
pub const CERTIFICATE_BYTES: usize = 64 * 1024;
/// Extensions of a certificate or of a revocation list (`protocol.limits.CERTIFICATE_EXTENSIONS`).
pub const CERTIFICATE_EXTENSIONS: usize = 64;
/// A revocation list, in bytes (`protocol.limits.CRL_BYTES`).
pub const CRL_BYTES: usize = 4 * 1024 * 1024;
/// Certificates in one PEM text (`protocol.limits.CHAIN_CERTIFICATES`).
pub const CHAIN_CERTIFICATES: usize = 16;
/// A PEM text, in bytes (`protocol.limits.PEM_BYTES`).
pub const PEM_BYTES: usize = 1024 * 1024;
/// A SubjectPublicKeyInfo, in bytes (`protocol.limits.SPKI_BYTES`): RSA with 8192 bits needs 1,062.
pub const SPKI_BYTES: usize = 2 * 1024;
/// A signature, in bytes (`protocol.limits.SIGNATURE_BYTES`): that of RSA with 8192 bits.
pub const SIGNATURE_BYTES: usize = 1024;
/// A signed message, in bytes (`protocol.limits.SIGNED_BYTES`): a revocation list is the longest.
pub const SIGNED_BYTES: usize = CRL_BYTES;

/// Why bytes are not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceError {
    /// Not of the format.
    Malformed(&'static str),
    /// Over a named limit.
    TooLarge(&'static str),
    /// An algorithm, key size or version that is not accepted.
    Unsupported(String),
    /// The signature does not verify.
    SignatureInvalid(&'static str),
}

pub(crate) fn unsupported<T>(what: impl Into<String>) -> Result<T, EvidenceError> {
    Err(EvidenceError::Unsupported(what.into()))
}
