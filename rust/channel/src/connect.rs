//! The client's end.

use crate::appraise::Appraise;
use crate::freshness;
use crate::identity::Identity;
use crate::pump::{pump, Stop};
use crate::runtime::runtime;
use crate::tls::{client_config, exporters, Check, Failure};
use crate::verified::{pair, Verified};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

/// Connect, verify the peer and be verified, all within `timeout`. Blocks the calling thread, on which the appraiser runs.
pub fn connect(
    host: &str,
    port: u16,
    identity: &Identity,
    appraiser: Arc<dyn Appraise>,
    timeout: Duration,
) -> Result<Verified, Failure> {
    let deadline = Instant::now() + timeout;
    runtime()?.block_on(async {
        timeout_at(
            deadline.into(),
            establish(host, port, identity, appraiser, deadline),
        )
        .await
        .unwrap_or(Err(Failure::TimedOut))
    })
}

async fn establish(
    host: &str,
    port: u16,
    identity: &Identity,
    appraiser: Arc<dyn Appraise>,
    deadline: Instant,
) -> Result<Verified, Failure> {
    let unreachable =
        |error: std::io::Error| Failure::Unreachable(format!("no connection: {error}"));
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let address = tcp.peer_addr().map_err(unreachable)?.to_string();
    let check = Check::new(appraiser, deadline);
    let connector = TlsConnector::from(client_config(identity, &check)?);
    // Only rustls asks for a name; it is neither sent nor verified.
    let name = ServerName::try_from("mesatee").map_err(|_| Failure::Local("no name".into()))?;
    let mut tls = connector
        .connect(name, tcp)
        .await
        .map_err(|error| check.failure(&error))?;
    let (_, session) = tls.get_ref();
    let (peer, appraisal) = check.finish(session.alpn_protocol())?;
    let (fresh, exporter) = exporters(session)?;
    freshness::client(&mut tls, fresh, identity, &peer).await?;
    let (ours, stream) = pair()?;
    let stop = Arc::new(Stop::default());
    let pump_stop = stop.clone();
    tokio::spawn(async move { pump(tls, ours, &pump_stop).await });
    Ok(Verified {
        peer,
        appraisal,
        exporter,
        address,
        stream,
        stop,
    })
}
