//! As much of HTTP/1.1 as the measured servers speak: a status, headers, and a body of stated length.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// An answer larger than this is none of ours, in bytes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Reads answers off one connection.
pub(crate) struct Reader {
    buffer: Vec<u8>,
    filled: usize,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; 16 * 1024],
            filled: 0,
        }
    }

    /// The status of the next answer, whose body is read and dropped.
    pub(crate) async fn answer<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<u16> {
        loop {
            if let Some((status, length)) = head(&self.buffer[..self.filled])? {
                if length <= self.filled {
                    self.buffer.copy_within(length..self.filled, 0);
                    self.filled -= length;
                    return Ok(status);
                }
                if length > self.buffer.len() {
                    self.buffer.resize(length, 0);
                }
            }
            if self.filled == self.buffer.len() {
                return Err(bad("the answer's headers are too long"));
            }
            let count = stream.read(&mut self.buffer[self.filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += count;
        }
    }
}

/// Status and length of the whole answer, once its headers are complete.
fn head(data: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let Some(end) = data.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&data[..end]).map_err(|_| bad("the headers are not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| bad("the answer has no status"))?;
    let body: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| bad("the answer does not say its length"))?;
    if body > ANSWER_BYTES {
        return Err(bad("the answer is too long"));
    }
    Ok(Some((status, end + 4 + body)))
}

fn bad(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[u8], count: usize) -> Vec<io::Result<u16>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut stream, mut reader, mut found) = (data, Reader::new(), Vec::new());
            for _ in 0..count {
                found.push(reader.answer(&mut stream).await);
            }
            found
        })
    }

    #[test]
    fn answers_follow_one_another() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n";
        let found = read(two, 3);
        assert!(matches!(found[0], Ok(200)));
        assert!(matches!(found[1], Ok(403)));
        assert!(found[2].is_err());
    }

    #[test]
    fn an_answer_longer_than_the_buffer_is_read_whole() {
        let mut data = b"HTTP/1.1 200 OK\r\ncontent-length: 50000\r\n\r\n".to_vec();
        data.resize(data.len() + 50_000, b'x');
        assert!(matches!(read(&data, 1)[0], Ok(200)));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let without_length = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
        let huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".as_slice();
        let endless = vec![b'x'; 20 * 1024];
        for data in [without_length, huge, b"\r\n\r\n", b"HTTP/1.1", &endless] {
            assert!(read(data, 1)[0].is_err());
        }
    }
}
