//! Random access to an age v1 file by 64 KiB chunk.

use crate::error::SealingError;
use crate::header;
use crate::open::{start, OpenWith, HEADER_BUFFER_BYTES};
use crate::stream::At;
use age::stream::StreamReader;
use age::Decryptor;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Mutex;

/// A chunk of plaintext, and what sealing adds to each (C2SP age, "Payload"), in bytes.
const CHUNK_BYTES: u64 = 64 * 1024;
const TAG_BYTES: u64 = 16;

/// Random access to a sealed file.
pub struct AgeReader {
    /// `None` after a failure: the library's reader cannot be used after one.
    stream: Mutex<Option<StreamReader<BufReader<At>>>>,
    size: u64,
}

impl AgeReader {
    /// Open a seekable `source`, from its first byte on.
    ///
    /// 1. Take the header within its limits.
    /// 2. Unwrap the file key and check the header's MAC.
    /// 3. Check the payload's length by its last chunk, which is empty in an empty file only.
    pub fn new(source: File, key: &OpenWith) -> Result<Self, SealingError> {
        if !source.metadata().map_err(SealingError::read)?.is_file() {
            return Err(SealingError::malformed(
                "random access needs a regular file",
            ));
        }
        // 1.
        let mut file = BufReader::with_capacity(HEADER_BUFFER_BYTES, At::new(source, 0)?);
        let head = header::take(&mut file)?;
        header::check(&head)?;
        let payload = file.get_ref().len().saturating_sub(head.len() as u64);
        file.get_mut().keep_head(head);
        file.seek(SeekFrom::Start(0)).map_err(lost)?;
        // 2.
        let mut stream = start(
            Decryptor::new_buffered(file).map_err(SealingError::decrypt)?,
            key,
        )?;
        // 3.
        let size = stream.seek(SeekFrom::End(0)).map_err(lost)?;
        if payload > TAG_BYTES && payload % (CHUNK_BYTES + TAG_BYTES) == TAG_BYTES {
            return Err(SealingError::corrupt("the last chunk is empty"));
        }
        Ok(Self {
            stream: Mutex::new(Some(stream)),
            size,
        })
    }

    /// Length of the plaintext in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes there are from `offset`, at most `length`.
    pub fn available(&self, offset: u64, length: u64) -> u64 {
        self.size.saturating_sub(offset).min(length)
    }

    /// Fill `room`, whose length [`Self::available`] told, from `offset`.
    pub fn read_at(&self, offset: u64, room: &mut [u8]) -> Result<(), SealingError> {
        let end = offset.checked_add(room.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(SealingError::malformed("the range lies beyond the end"));
        }
        if room.is_empty() {
            return Ok(());
        }
        let failed = || SealingError::corrupt("an earlier read of this file failed");
        let mut guard = self.stream.lock().map_err(|_| failed())?;
        let mut stream = guard.take().ok_or_else(failed)?;
        stream
            .seek(SeekFrom::Start(offset))
            .and_then(|_| stream.read_exact(room))
            .map_err(lost)?;
        *guard = Some(stream);
        Ok(())
    }
}

fn lost(error: std::io::Error) -> SealingError {
    SealingError::uncarry(error, "the sealed file was altered or cut")
}
