//! Proof of freshness right after the handshake (ADR 1, "The channel").
//!
//! ```text
//! client -> server   32-byte nonce
//! server -> client   32-byte nonce, Ed25519 signature
//! client -> server   Ed25519 signature
//! server -> client   1 byte: accepted
//! ```
//!
//! The exporter ties the signatures to this very TLS session, the role keeps one end's signature from being played back
//! as the other's, the nonces keep it from being made in advance, and the digest names the certificate that was appraised.

use crate::certificate::PeerCertificate;
use crate::identity::Identity;
use mesatee_custody::{verify_ed25519, SigningKey};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Label of the exporter that is signed (RFC 8446, section 7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-mesatee-freshness";
const DOMAIN: &[u8] = b"mesatee freshness v1";
const ACCEPTED: u8 = 1;
const NONCE_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// Which end signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Why freshness was not shown.
#[derive(Debug)]
pub(crate) enum NotFresh {
    /// The bytes stopped or the connection broke.
    Io(io::Error),
    /// The peer's signature does not hold for this session.
    Signature,
    /// The server did not say `accepted`.
    NotAccepted,
    /// No randomness.
    System,
}

impl From<io::Error> for NotFresh {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What both ends sign, apart from role and certificate.
pub(crate) struct Session {
    pub(crate) exporter: [u8; 32],
    pub(crate) client_nonce: [u8; NONCE_BYTES],
    pub(crate) server_nonce: [u8; NONCE_BYTES],
}

impl Session {
    fn transcript(&self, role: Role, certificate: &[u8]) -> Vec<u8> {
        // Every part has a fixed length (both role names have six letters), so the concatenation is unambiguous.
        let role: &[u8; 6] = match role {
            Role::Client => b"client",
            Role::Server => b"server",
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        [
            DOMAIN,
            role,
            &self.exporter,
            &self.client_nonce,
            &self.server_nonce,
            digest.as_ref(),
        ]
        .concat()
    }

    fn sign(&self, role: Role, key: &SigningKey, certificate: &[u8]) -> [u8; SIGNATURE_BYTES] {
        key.sign(&self.transcript(role, certificate))
    }

    fn verify(
        &self,
        role: Role,
        peer: &PeerCertificate,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), NotFresh> {
        let transcript = self.transcript(role, peer.der());
        verify_ed25519(peer.public(), signature, &transcript).map_err(|_| NotFresh::Signature)
    }
}

fn nonce() -> Result<[u8; NONCE_BYTES], NotFresh> {
    let mut bytes = [0; NONCE_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| NotFresh::System)?;
    Ok(bytes)
}

/// The client's side.
pub(crate) async fn client<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: [u8; 32],
    identity: &Identity,
    peer: &PeerCertificate,
) -> Result<(), NotFresh> {
    let client_nonce = nonce()?;
    stream.write_all(&client_nonce).await?;
    stream.flush().await?;
    let mut server_nonce = [0; NONCE_BYTES];
    stream.read_exact(&mut server_nonce).await?;
    let mut signature = [0; SIGNATURE_BYTES];
    stream.read_exact(&mut signature).await?;
    let session = Session {
        exporter,
        client_nonce,
        server_nonce,
    };
    session.verify(Role::Server, peer, &signature)?;
    stream
        .write_all(&session.sign(Role::Client, &identity.key, &identity.der))
        .await?;
    stream.flush().await?;
    if stream.read_u8().await? != ACCEPTED {
        return Err(NotFresh::NotAccepted);
    }
    Ok(())
}

/// The server's side.
pub(crate) async fn server<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: [u8; 32],
    identity: &Identity,
    peer: &PeerCertificate,
) -> Result<(), NotFresh> {
    let mut client_nonce = [0; NONCE_BYTES];
    stream.read_exact(&mut client_nonce).await?;
    let session = Session {
        exporter,
        client_nonce,
        server_nonce: nonce()?,
    };
    let signature = session.sign(Role::Server, &identity.key, &identity.der);
    stream
        .write_all(&[session.server_nonce.as_slice(), &signature].concat())
        .await?;
    stream.flush().await?;
    let mut signature = [0; SIGNATURE_BYTES];
    stream.read_exact(&mut signature).await?;
    session.verify(Role::Client, peer, &signature)?;
    stream.write_u8(ACCEPTED).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{make_certificate, parse_certificate};

    fn identity() -> (Identity, PeerCertificate) {
        let key = SigningKey::generate().unwrap();
        let der = make_certificate(&key, "a", 0, 1, None).unwrap();
        (
            Identity::new(&der, key).unwrap(),
            parse_certificate(&der).unwrap(),
        )
    }

    fn session() -> Session {
        Session {
            exporter: [1; 32],
            client_nonce: [2; 32],
            server_nonce: [3; 32],
        }
    }

    #[test]
    fn the_transcript_is_that_of_the_adr() {
        let transcript = session().transcript(Role::Server, b"certificate");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"certificate");
        let expected = [
            b"mesatee freshness v1server".as_slice(),
            &[1; 32],
            &[2; 32],
            &[3; 32],
            digest.as_ref(),
        ]
        .concat();
        assert_eq!(transcript, expected);
    }

    #[test]
    fn a_signature_holds_for_its_own_session_role_and_certificate_only() {
        let (ours, us) = identity();
        let (_, other) = identity();
        let signature = session().sign(Role::Server, &ours.key, &ours.der);
        let good = session().verify(Role::Server, &us, &signature);
        assert!(good.is_ok());
        assert!(session().verify(Role::Client, &us, &signature).is_err());
        assert!(session().verify(Role::Server, &other, &signature).is_err());
        for change in 0..3 {
            let mut relayed = session();
            match change {
                0 => relayed.exporter[0] ^= 1,
                1 => relayed.client_nonce[0] ^= 1,
                _ => relayed.server_nonce[0] ^= 1,
            }
            assert!(relayed.verify(Role::Server, &us, &signature).is_err());
        }
        // The same key under another certificate of its own: another digest.
        let second = make_certificate(&ours.key, "b", 0, 1, None).unwrap();
        let second = parse_certificate(&second).unwrap();
        assert!(session().verify(Role::Server, &second, &signature).is_err());
    }

    fn run<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn both_ends_agree() {
        let ((c, c_cert), (s, s_cert)) = (identity(), identity());
        run(async {
            let (mut a, mut b) = tokio::io::duplex(1024);
            let (client, server) = tokio::join!(
                super::client(&mut a, [7; 32], &c, &s_cert),
                super::server(&mut b, [7; 32], &s, &c_cert)
            );
            assert!(client.is_ok() && server.is_ok());
        });
    }

    #[test]
    fn a_relay_between_two_sessions_is_refused() {
        // A man in the middle holds two TLS sessions, hence two exporters, and copies the exchange between them.
        let ((c, c_cert), (s, s_cert)) = (identity(), identity());
        run(async {
            let (mut a, mut b) = tokio::io::duplex(1024);
            let (client, server) = tokio::join!(
                async {
                    let end = super::client(&mut a, [7; 32], &c, &s_cert).await;
                    drop(a);
                    end
                },
                super::server(&mut b, [8; 32], &s, &c_cert)
            );
            assert!(matches!(client, Err(NotFresh::Signature)));
            assert!(matches!(server, Err(NotFresh::Io(_))));
        });
    }

    #[test]
    fn a_reflected_exchange_is_refused() {
        // The peer has no key and sends the client's own bytes back.
        let (c, c_cert) = identity();
        run(async {
            let (mut a, mut b) = tokio::io::duplex(1024);
            let reflect = async {
                let mut nonce = [0; 32];
                b.read_exact(&mut nonce).await.unwrap();
                b.write_all(&[nonce.as_slice(), &[0; 64]].concat())
                    .await
                    .unwrap();
                drop(b);
            };
            let (client, ()) = tokio::join!(super::client(&mut a, [7; 32], &c, &c_cert), reflect);
            assert!(matches!(client, Err(NotFresh::Signature)));
        });
    }

    #[test]
    fn the_server_must_say_accepted() {
        let ((c, _), (s, s_cert)) = (identity(), identity());
        run(async {
            let (mut a, mut b) = tokio::io::duplex(1024);
            let server = async {
                let mut client_nonce = [0; 32];
                b.read_exact(&mut client_nonce).await.unwrap();
                let session = Session {
                    exporter: [7; 32],
                    client_nonce,
                    server_nonce: [0; 32],
                };
                let signature = session.sign(Role::Server, &s.key, &s.der);
                b.write_all(&[&[0; 32], signature.as_slice()].concat())
                    .await
                    .unwrap();
                b.read_exact(&mut [0; 64]).await.unwrap();
                b.write_u8(0).await.unwrap();
            };
            let (client, ()) = tokio::join!(super::client(&mut a, [7; 32], &c, &s_cert), server);
            assert!(matches!(client, Err(NotFresh::NotAccepted)));
        });
    }
}
