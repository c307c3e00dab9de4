//! The load: all connections are opened first, then each sends one request after another until none is left.

use crate::http::Reader;
use crate::open::{number, Stream, Target};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;

/// What one connection saw: seconds per request, and how many were not answered with 200.
struct Seen {
    seconds: Vec<f64>,
    refused: usize,
}

pub(crate) fn run(target: Target, connections: &str, requests: &str) -> Result<String, String> {
    let connections: usize = number(connections)?;
    let data = std::fs::read(requests).map_err(|error| format!("{requests}: {error}"))?;
    let requests = Arc::new(split(&data)?);
    // One thread: the server needs the machine's other cores.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(load(target, connections, requests))
}

fn split(data: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut rest = data;
    let mut found = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > after.len() {
            return Err("the file of requests is cut".into());
        }
        let (request, next) = after.split_at(length);
        found.push(request.to_vec());
        rest = next;
    }
    if !rest.is_empty() || found.is_empty() {
        return Err("the file holds no whole requests".into());
    }
    Ok(found)
}

async fn load(
    target: Target,
    connections: usize,
    requests: Arc<Vec<Vec<u8>>>,
) -> Result<String, String> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(target.open().await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let senders: Vec<_> = open
        .into_iter()
        .map(|connection| tokio::spawn(send(connection, requests.clone(), next.clone())))
        .collect();
    let (mut seconds, mut refused) = (Vec::with_capacity(requests.len()), 0);
    for sender in senders {
        let seen = sender.await.map_err(|error| error.to_string())??;
        seconds.extend(seen.seconds);
        refused += seen.refused;
    }
    let elapsed = start.elapsed().as_secs_f64();
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize];
    Ok(format!(
        r#"{{"requests":{},"refused":{refused},"seconds":{elapsed:.6},"p50":{:.6},"p95":{:.6}}}"#,
        seconds.len(),
        at(0.5),
        at(0.95),
    ))
}

async fn send(
    mut connection: Box<dyn Stream>,
    requests: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
) -> Result<Seen, String> {
    let mut reader = Reader::new();
    let mut seen = Seen {
        seconds: Vec::new(),
        refused: 0,
    };
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let start = Instant::now();
        let told = |error: std::io::Error| format!("a connection broke: {error}");
        connection.write_all(request).await.map_err(told)?;
        connection.flush().await.map_err(told)?;
        let status = reader.answer(&mut connection).await.map_err(told)?;
        seen.seconds.push(start.elapsed().as_secs_f64());
        seen.refused += usize::from(status != 200);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_split_by_their_lengths() {
        let found = split(b"\0\0\0\x02ab\0\0\0\x01c").unwrap();
        assert_eq!(found, [b"ab".to_vec(), b"c".to_vec()]);
        for cut in [b"".as_slice(), b"\0\0\0\x02a", b"\0\0\0\x01ab"] {
            assert!(split(cut).is_err());
        }
    }
}
