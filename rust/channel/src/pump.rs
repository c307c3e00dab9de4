//! Copies bytes between TLS and the app's socketpair, with half-close in both directions.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | the app shuts down writing | close_notify to the peer; the app can go on reading |
//! | the app closes | its last bytes and close_notify to the peer; what still comes is discarded for `LINGER` |
//! | the peer sends close_notify | the app reads its end; it can go on writing |
//! | the peer vanishes, or TLS breaks | the app's end closes in both directions |
//!
//! A socketpair cannot carry "cut off" as distinct from "ended": what runs over it must say itself where it ends, as
//! HTTP does with its lengths and chunks.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// One direction's buffer, in bytes: two full TLS records.
const BUFFER_BYTES: usize = 32 * 1024;
/// How long a peer's bytes are taken and discarded after the app closed. Without it the kernel would answer them with a
/// reset, which can destroy our last bytes on their way.
const LINGER: Duration = Duration::from_secs(2);
/// How long a last close_notify may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often a half-closed connection is asked whether the app has closed the rest.
const HALF_CLOSED_CHECK: Duration = Duration::from_millis(50);

/// Ends a pump from outside.
#[derive(Default)]
pub(crate) struct Stop(Notify);

impl Stop {
    pub(crate) fn stop(&self) {
        self.0.notify_one();
    }
}

/// Copy until both directions have ended.
pub(crate) async fn pump<S: AsyncRead + AsyncWrite>(tls: S, app: UnixStream, stop: &Stop) {
    let (mut from_peer, mut to_peer) = tokio::io::split(tls);
    let (mut from_app, to_app) = app.into_split();
    let inbound = inbound(&mut from_peer, to_app);
    tokio::pin!(inbound);
    let mut inbound_ended = false;
    let copied = {
        let outbound = outbound(&mut from_app, &mut to_peer);
        tokio::pin!(outbound);
        loop {
            tokio::select! {
                result = &mut outbound => break result,
                result = &mut inbound, if !inbound_ended => match result {
                    Ok(()) => inbound_ended = true,
                    Err(error) => break Err(error),
                },
                () = stop.0.notified() => break Err(io::ErrorKind::Interrupted.into()),
            }
        }
    };
    // Whatever ended it, the peer hears of it; a broken connection fails here, and that is all.
    let goodbye = tokio::time::timeout(GOODBYE, to_peer.shutdown()).await;
    if copied.is_err() || !matches!(goodbye, Ok(Ok(()))) || inbound_ended {
        return;
    }
    tokio::select! {
        _ = &mut inbound => return,
        () = abandoned(&from_app) => {},
        () = stop.0.notified() => return,
    }
    let _ = tokio::time::timeout(LINGER, inbound).await;
}

/// From the app to the peer, until the app ends its writing.
async fn outbound<W: AsyncWrite + Unpin>(app: &mut OwnedReadHalf, peer: &mut W) -> io::Result<()> {
    let mut buffer = Zeroizing::new(vec![0; BUFFER_BYTES]);
    loop {
        let count = match app.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            // The app closed with bytes unread; all that it wrote has been read before this error shows.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        peer.write_all(&buffer[..count]).await?;
        peer.flush().await?;
    }
}

/// From the peer to the app, until the peer ends its writing. Bytes for an app that closed are discarded.
async fn inbound<R: AsyncRead + Unpin>(peer: &mut R, mut app: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = Zeroizing::new(vec![0; BUFFER_BYTES]);
    let mut app_reads = true;
    loop {
        let count = peer.read(&mut buffer).await?;
        if count == 0 {
            // Dropping our writing half is the end of the app's reading.
            return Ok(());
        }
        if app_reads {
            app_reads = app.write_all(&buffer[..count]).await.is_ok();
        }
    }
}

/// Returns once the app has closed its end, as distinct from having shut down its writing.
async fn abandoned(app: &OwnedReadHalf) {
    // The kernel marks a full close by a hang-up. tokio shows it with the readiness to write, which by itself is almost
    // always there: hence the look from time to time, and only while a connection is half closed.
    while let Ok(ready) = app.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        tokio::time::sleep(HALF_CLOSED_CHECK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    /// The peer's end of a plain stream, the app's end, and the pump between them.
    async fn start() -> (
        tokio::io::DuplexStream,
        std::os::unix::net::UnixStream,
        tokio::task::JoinHandle<()>,
    ) {
        let (peer, tls) = tokio::io::duplex(1024);
        let (ours, app) = crate::verified::pair().ok().unwrap();
        let task = tokio::spawn(async move { pump(tls, ours, &Stop::default()).await });
        (peer, app, task)
    }

    async fn ends(task: tokio::task::JoinHandle<()>) {
        tokio::time::timeout(Duration::from_secs(5), task)
            .await
            .expect("the pump ends")
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_apps_half_close_leaves_its_reading_open() {
        let (mut peer, app, task) = start().await;
        app.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);
        tokio::time::sleep(HALF_CLOSED_CHECK * 3).await;
        peer.write_all(b"late").await.unwrap();
        drop(peer);
        app.set_nonblocking(true).unwrap();
        let mut app = UnixStream::from_std(app).unwrap();
        let mut all = Vec::new();
        app.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"late");
        ends(task).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_apps_close_delivers_its_last_bytes() {
        let (mut peer, mut app, task) = start().await;
        // Bytes that the app never reads turn its close into a reset of the socketpair.
        peer.write_all(b"unread").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        io::Write::write_all(&mut app, b"last").unwrap();
        drop(app);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last");
        drop(peer);
        ends(task).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_peer_does_not_keep_an_abandoned_connection() {
        let (peer, app, task) = start().await;
        drop(app);
        ends(task).await;
        drop(peer);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_half_close_then_close_is_noticed() {
        let (peer, app, task) = start().await;
        app.shutdown(Shutdown::Write).unwrap();
        tokio::time::sleep(HALF_CLOSED_CHECK * 2).await;
        assert!(!task.is_finished());
        drop(app);
        ends(task).await;
        drop(peer);
    }
}
