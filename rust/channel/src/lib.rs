//! The attested channel: mutually authenticated TLS 1.3 whose certificates are made by the peers themselves and judged by
//! an appraiser inside the handshake.
//!
//! What a connection has gone through before the app sees its first byte, at both ends:
//!
//! 1. TLS 1.3 with key exchange X25519MLKEM768 and ALPN `mesatee/1`; no ticket, no resumption, no early data (RFC 8446).
//! 2. Exactly one certificate from the peer: Ed25519, signed by itself, within its validity (RFC 5280, RFC 8410).
//! 3. The peer holds the certificate's key: its CertificateVerify (RFC 8446, section 4.4.3).
//! 4. The appraiser accepted key and evidence (TCG DICE tagged evidence, extension 2.23.133.5.4.9).
//! 5. Both ends signed fresh nonces and the TLS exporter (`freshness`; ADR 1, "The channel").
//!
//! Then bytes are copied between TLS and one end of a socketpair; the app owns the other end.
#![forbid(unsafe_code)]

mod appraise;
mod certificate;
mod connect;
mod freshness;
mod identity;
mod listener;
mod pump;
mod runtime;
mod tls;
mod verified;

pub use appraise::{Appraisal, Appraise, Refusal};
pub use certificate::{
    make_certificate, parse_certificate, spki, CertificateError, PeerCertificate,
    CERTIFICATE_BYTES, EVIDENCE_BYTES,
};
pub use connect::connect;
pub use identity::Identity;
pub use listener::{Accepted, Listener, ListenerOptions, Report};
pub use tls::{Failure, ALPN};
pub use verified::{Stopper, Verified};
