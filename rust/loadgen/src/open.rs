//! Opening connections: by the attested channel, and by plain TLS for the peer.

use mesatee_channel::{Appraisal, Appraise, Identity, PeerCertificate, Refusal};
use mesatee_custody::SigningKey;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A connection as the load loop sees it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where connections go.
pub(crate) enum Target {
    Attested {
        host: String,
        port: u16,
        identity: Box<Identity>,
        server: Vec<u8>,
    },
    Tls {
        host: String,
        port: u16,
        connector: TlsConnector,
    },
}

/// Accepts the one key that the bench has appraised before it started the load.
struct Pinned(Vec<u8>);

impl Appraise for Pinned {
    fn appraise(&self, peer: &PeerCertificate) -> Result<Appraisal, Refusal> {
        if peer.public().as_slice() == self.0 {
            return Ok(Box::new(()));
        }
        Err(Refusal {
            reason: "the server has another key than the one that was appraised".into(),
            cause: Box::new(()),
        })
    }
}

pub(crate) fn attested(
    host: &str,
    port: &str,
    certificate: &str,
    key: &str,
    server: &str,
) -> Result<Target, String> {
    let key = SigningKey::load(Path::new(key)).map_err(|_| format!("{key} holds no key"))?;
    let identity = Identity::new(&read(certificate)?, key)
        .map_err(|_| format!("{certificate} is not this key's certificate"))?;
    Ok(Target::Attested {
        host: host.into(),
        port: number(port)?,
        identity: Box::new(identity),
        server: read(server)?,
    })
}

pub(crate) fn tls(host: &str, port: &str, ca: &str) -> Result<Target, String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(read(ca)?))
        .map_err(|error| format!("{ca}: {error}"))?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Target::Tls {
        host: host.into(),
        port: number(port)?,
        connector: TlsConnector::from(Arc::new(config)),
    })
}

impl Target {
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>, String> {
        let told = |error: io::Error| error.to_string();
        match self {
            Self::Attested {
                host,
                port,
                identity,
                server,
            } => {
                let (host, port, identity) = (host.clone(), *port, identity.clone());
                let pinned = Arc::new(Pinned(server.clone()));
                let connect = move || {
                    mesatee_channel::connect(&host, port, &identity, pinned, CONNECT_WITHIN)
                        .map_err(|failure| failure.reason())
                };
                let verified = tokio::task::spawn_blocking(connect)
                    .await
                    .map_err(|error| error.to_string())??;
                verified.stream.set_nonblocking(true).map_err(told)?;
                Ok(Box::new(
                    UnixStream::from_std(verified.stream).map_err(told)?,
                ))
            }
            Self::Tls {
                host,
                port,
                connector,
            } => {
                let tcp = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(told)?;
                tcp.set_nodelay(true).map_err(told)?;
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                Ok(Box::new(connector.connect(name, tcp).await.map_err(told)?))
            }
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{path}: {error}"))
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text} is not such a number"))
}
