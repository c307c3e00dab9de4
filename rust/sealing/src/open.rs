//! Opening an age v1 file as a stream.

use crate::agekey::AgeKey;
use crate::error::SealingError;
use crate::header;
use crate::stream::{At, Meter, Plain, Source, Target, Watch, BUFFER_BYTES};
use crate::wrap::FileKey;
use age::stream::StreamReader;
use age::x25519::Identity as X25519;
use age::{DecryptError, Decryptor, Identity};
use age_core::format::{FileKey as AgeFileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};

/// Buffer for a read of the header alone, in bytes.
pub(crate) const HEADER_BUFFER_BYTES: usize = 8 * 1024;
/// What is read of a source at once: a pipe gives 64 KiB, and the buffer is written whole before the first read.
const SOURCE_BUFFER_BYTES: usize = 128 * 1024;

/// The key to open with.
#[derive(Clone)]
pub enum OpenWith {
    /// The file's own key: stanzas are not looked at.
    File(FileKey),
    /// One of the file's recipients.
    Age(AgeKey),
}

/// Answers to every stanza with the file key that it holds; the library then checks the header's MAC with it.
struct Known(FileKey);

impl Identity for Known {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<AgeFileKey, DecryptError>> {
        Some(Ok(self.0.for_age()))
    }
}

/// Copies the file key that an identity unwraps into custody.
struct Capture {
    identity: X25519,
    file_key: RefCell<Option<FileKey>>,
}

impl Identity for Capture {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<AgeFileKey, DecryptError>> {
        let found = self.identity.unwrap_stanza(stanza)?;
        if let Ok(file_key) = &found {
            self.file_key
                .replace(FileKey::copy_of(file_key.expose_secret()));
        }
        Some(found)
    }
}

/// Unwrap the file key and check the header's MAC.
pub(crate) fn start<R: Read>(
    decryptor: Decryptor<R>,
    key: &OpenWith,
) -> Result<StreamReader<R>, SealingError> {
    match key {
        OpenWith::File(key) => {
            decryptor.decrypt(std::iter::once(&Known(key.clone()) as &dyn Identity))
        }
        OpenWith::Age(key) => decryptor.decrypt(std::iter::once(&key.identity()? as &dyn Identity)),
    }
    .map_err(SealingError::decrypt)
}

/// Open `source` into `target`; the number of plaintext bytes, which is at most `limit`.
///
/// What is written before an error is authentic, but not the whole.
pub fn age_open(
    source: File,
    target: File,
    key: &OpenWith,
    limit: u64,
    watch: &dyn Watch,
) -> Result<u64, SealingError> {
    let source = BufReader::with_capacity(SOURCE_BUFFER_BYTES, Source::new(source, watch));
    open_from(source, target, key, limit, watch)
}

/// As [`age_open`], of a file whose bytes are here.
pub fn age_open_bytes(
    source: &[u8],
    target: File,
    key: &OpenWith,
    limit: u64,
    watch: &dyn Watch,
) -> Result<u64, SealingError> {
    open_from(source, target, key, limit, watch)
}

fn open_from(
    mut source: impl BufRead,
    target: File,
    key: &OpenWith,
    limit: u64,
    watch: &dyn Watch,
) -> Result<u64, SealingError> {
    let head = header::take(&mut source)?;
    let mut reader = start(header::parse(head, source)?, key)?;
    let mut target = Target::new(target, watch);
    let mut meter = Meter::new(watch);
    let mut buffer = Plain::new(BUFFER_BYTES);
    let mut most = 0;
    loop {
        let count = fill(&mut reader, &mut buffer.0)?;
        most = most.max(count);
        if count == 0 {
            buffer.held(most);
            return meter.finish();
        }
        if meter.done + count as u64 > limit {
            return Err(SealingError::too_large(
                "the plaintext is longer than allowed",
            ));
        }
        target.push(&buffer.0[..count])?;
        meter.add(count)?;
    }
}

/// Read until `room` is full or the file ends, so that one system call writes several chunks.
pub(crate) fn fill(reader: &mut impl Read, room: &mut [u8]) -> Result<usize, SealingError> {
    let mut len = 0;
    while len < room.len() {
        match reader.read(&mut room[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) => {
                return Err(SealingError::uncarry(
                    error,
                    "the sealed file was altered or cut",
                ))
            }
        }
    }
    Ok(len)
}

/// The file key of a file that was sealed to `key`, of which only the header is read.
///
/// The position of a seekable source stays as it is; of a pipe at most 8 KiB beyond the header are taken.
pub fn age_file_key(
    mut source: File,
    key: &AgeKey,
    watch: &dyn Watch,
) -> Result<FileKey, SealingError> {
    match source.stream_position() {
        Ok(position) => file_key_of(
            BufReader::with_capacity(HEADER_BUFFER_BYTES, At::new(source, position)?),
            key,
        ),
        Err(_) => file_key_of(
            BufReader::with_capacity(HEADER_BUFFER_BYTES, Source::new(source, watch)),
            key,
        ),
    }
}

fn file_key_of(mut source: impl BufRead, key: &AgeKey) -> Result<FileKey, SealingError> {
    let head = header::take(&mut source)?;
    let capture = Capture {
        identity: key.identity()?,
        file_key: RefCell::new(None),
    };
    header::parse(head, source)?
        .decrypt(std::iter::once(&capture as &dyn Identity))
        .map_err(SealingError::decrypt)?;
    capture
        .file_key
        .into_inner()
        .ok_or_else(SealingError::no_memory)
}
