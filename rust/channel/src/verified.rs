//! A verified connection, as the app gets it.

use crate::appraise::Appraisal;
use crate::certificate::PeerCertificate;
use crate::pump::Stop;
use crate::tls::Failure;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A peer that passed every check, and the plaintext end of its connection.
pub struct Verified {
    /// Its certificate.
    pub peer: PeerCertificate,
    /// What the appraiser found.
    pub appraisal: Appraisal,
    /// Channel binding, equal on both ends.
    pub exporter: [u8; 32],
    /// The peer's network address.
    pub address: String,
    /// The app's end of the socketpair, in blocking mode.
    pub stream: UnixStream,
    pub(crate) stop: Arc<Stop>,
}

/// Ends a connection whoever owns its stream by now.
pub struct Stopper(Arc<Stop>);

impl Stopper {
    /// The app's end reads its end, the peer gets close_notify.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Verified {
    /// A way to end the connection later.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }
}

/// Both ends of a socketpair: ours for the pump, the app's.
pub(crate) fn pair() -> Result<(tokio::net::UnixStream, UnixStream), Failure> {
    let failed = |error: std::io::Error| Failure::Local(format!("no socketpair: {error}"));
    let (ours, app) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
    Ok((ours, app))
}
