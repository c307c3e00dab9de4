//! Sealing a stream as an age v1 file.

use crate::agekey;
use crate::error::SealingError;
use crate::stream::{Hashed, Meter, Plain, Source, Target, Watch, BUFFER_BYTES};
use crate::wrap::FileKey;
use age::x25519::Recipient as X25519;
use age::{EncryptError, Encryptor, Recipient};
use age_core::format::{FileKey as AgeFileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Error, ErrorKind, Write};

/// The most recipients of a file: its header stays within what is accepted when it is opened. The same number stands in
/// `protocol/limits.py`.
pub const AGE_RECIPIENTS: usize = 256;

/// The type of the stanza of a file without recipients. Other implementations skip a type that they do not know.
const NOBODY: &str = "file-key-grease";
const NOBODY_BODY_BYTES: usize = 32;

/// What [`age_seal`] made.
pub struct Sealed {
    /// The key of this file alone.
    pub file_key: FileKey,
    /// SHA-256 of the sealed bytes.
    pub digest: [u8; 32],
    /// How many sealed bytes there are.
    pub size: u64,
    /// How many bytes were sealed.
    pub plain_size: u64,
}

/// Stands in for all recipients, to copy the file key that the library draws into custody.
struct Capture {
    recipients: Vec<X25519>,
    file_key: RefCell<Option<FileKey>>,
}

impl Recipient for Capture {
    fn wrap_file_key(
        &self,
        file_key: &AgeFileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let copy = FileKey::copy_of(file_key.expose_secret())
            .ok_or_else(|| EncryptError::Io(ErrorKind::OutOfMemory.into()))?;
        self.file_key.replace(Some(copy));
        let mut stanzas = Vec::new();
        for recipient in &self.recipients {
            stanzas.extend(recipient.wrap_file_key(file_key)?.0);
        }
        if stanzas.is_empty() {
            let mut body = vec![0; NOBODY_BODY_BYTES];
            getrandom::fill(&mut body).map_err(|_| EncryptError::Io(Error::other("randomness")))?;
            stanzas.push(Stanza {
                tag: NOBODY.to_owned(),
                args: Vec::new(),
                body,
            });
        }
        Ok((stanzas, HashSet::new()))
    }
}

/// Seal everything that `source` gives into `target`.
pub fn age_seal(
    source: File,
    target: File,
    recipients: &[String],
    watch: &dyn Watch,
) -> Result<Sealed, SealingError> {
    if recipients.len() > AGE_RECIPIENTS {
        return Err(SealingError::too_large("more than 256 recipients"));
    }
    let capture = Capture {
        recipients: recipients
            .iter()
            .map(|text| agekey::recipient(text))
            .collect::<Result<_, _>>()?,
        file_key: RefCell::new(None),
    };
    let encryptor = Encryptor::with_recipients(std::iter::once(&capture as &dyn Recipient))
        .map_err(|_| SealingError::malformed("these recipients cannot be combined"))?;
    let file_key = capture.file_key.into_inner();
    let file_key = file_key.ok_or_else(SealingError::no_memory)?;

    let lost = "sealing failed";
    let out = Hashed::new(Target::new(target, watch));
    let mut writer = encryptor
        .wrap_output(out)
        .map_err(|error| SealingError::uncarry(error, lost))?;
    let mut source = Source::new(source, watch);
    let mut meter = Meter::new(watch);
    let mut buffer = Plain::new(BUFFER_BYTES);
    let mut most = 0;
    loop {
        let count = source.pull(&mut buffer.0)?;
        most = most.max(count);
        if count == 0 {
            buffer.held(most);
            break;
        }
        writer
            .write_all(&buffer.0[..count])
            .map_err(|error| SealingError::uncarry(error, lost))?;
        meter.add(count)?;
    }
    let out = writer
        .finish()
        .map_err(|error| SealingError::uncarry(error, lost))?;
    let (digest, size) = out.finish()?;
    let plain_size = meter.finish()?;
    Ok(Sealed {
        file_key,
        digest,
        size,
        plain_size,
    })
}
