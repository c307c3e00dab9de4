//! The appraiser: who decides, inside the handshake, whether a peer is to be trusted.

use crate::certificate::PeerCertificate;
use std::any::Any;

/// What an appraiser found; it travels with the connection.
pub type Appraisal = Box<dyn Any + Send + Sync>;

/// Why an appraiser refused.
pub struct Refusal {
    /// For this process's own records; the peer learns no more than a TLS alert.
    pub reason: String,
    /// The appraiser's own error, given back to whoever called `connect`.
    pub cause: Box<dyn Any + Send>,
}

/// Judges a peer's certificate. It may block; the handshake waits, other connections do not.
pub trait Appraise: Send + Sync {
    /// Accept with an appraisal, or refuse.
    fn appraise(&self, peer: &PeerCertificate) -> Result<Appraisal, Refusal>;
}
