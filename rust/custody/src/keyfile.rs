//! Key files: one key, mode 0600, never world- or group-readable.
//!
//! The text is a header line that names version and kind, the public part as a comment, and the secret in base64:
//!
//! ```text
//! # mesatee-key v1 signing
//! # public: oTkXmw...
//! 2Xq0...
//! ```
//!
//! What is in memory of such a file lives in [`SecretBytes`] only.

use crate::SecretBytes;
use base64::{engine::general_purpose::STANDARD, Engine};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The longest key file that is read, in bytes: an X-Wing key with its public part takes 1,700.
pub const KEY_FILE_BYTES: usize = 4096;
/// The mode of a key file: its owner reads and writes, nobody else does anything.
pub const KEY_FILE_MODE: u32 = 0o600;

const MAGIC: &str = "# mesatee-key v1 ";
const PUBLIC: &str = "# public: ";

/// Why a key file was not read or written.
#[derive(Debug)]
pub enum FileError {
    /// There is no such file, or no such folder to write to.
    NotFound,
    /// A file of that name exists; key files are never overwritten.
    Exists,
    /// The file is not safe to use.
    Refused(&'static str),
    /// The content is not a key of this kind.
    Malformed(&'static str),
    /// The operating system refused; its reason names no content.
    Io(Error),
}

impl From<Error> for FileError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::NotFound,
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
                Self::Malformed("the path cannot name a file")
            }
            ErrorKind::PermissionDenied => Self::Refused("this user may not open it"),
            _ => Self::Io(error),
        }
    }
}

fn no_memory() -> FileError {
    FileError::Io(Error::from(ErrorKind::OutOfMemory))
}

/// Create the file with `content`, durably. A name that exists, be it a dangling link, is refused.
pub fn create(path: &Path, content: &SecretBytes) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(KEY_FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    let written = content
        .with(|bytes| file.write_all(bytes))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key must not stay behind and block the name; the first error is the one to report.
        let _ = std::fs::remove_file(path);
        return Err(FileError::Io(error));
    }
    // The entry in the folder must last as well. Some file systems cannot sync a folder; the key is written all the same.
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// Read a whole key file.
///
/// 1. Open without following a link in the last place, and without waiting for the other end of a pipe.
/// 2. Check on the open file, so that nobody can swap it: a regular file that neither group nor others may touch.
/// 3. Read at most [`KEY_FILE_BYTES`].
pub fn read(path: &Path) -> Result<SecretBytes, FileError> {
    // 1.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => FileError::Refused("it is a symbolic link"),
            _ => FileError::from(error),
        })?;
    // 2.
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(FileError::Refused("it is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(FileError::Refused(
            "group or others may access it: chmod 600",
        ));
    }
    // 3.
    let mut room = SecretBytes::zeroed(KEY_FILE_BYTES + 1).ok_or_else(no_memory)?;
    let mut len = 0;
    while len <= KEY_FILE_BYTES {
        match file.read(&mut room.as_mut()[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::Io(error)),
        }
    }
    if len > KEY_FILE_BYTES {
        return Err(FileError::Malformed("longer than any key file"));
    }
    room.with(|bytes| SecretBytes::copy_of(&bytes[..len]))
        .ok_or_else(no_memory)
}

/// The text of a key file.
pub fn encode(
    kind: &str,
    public: Option<&[u8]>,
    secret: &SecretBytes,
) -> Result<SecretBytes, FileError> {
    let mut head = format!("{MAGIC}{kind}\n");
    if let Some(public) = public {
        head.push_str(PUBLIC);
        head.push_str(&to_base64(public));
        head.push('\n');
    }
    let encoded = secret.len().div_ceil(3) * 4;
    let mut text = SecretBytes::zeroed(head.len() + encoded + 1).ok_or_else(no_memory)?;
    let (start, rest) = text.as_mut().split_at_mut(head.len());
    start.copy_from_slice(head.as_bytes());
    secret
        .with(|bytes| STANDARD.encode_slice(bytes, rest))
        .map_err(|_| FileError::Malformed("the secret does not fit"))?;
    rest[encoded] = b'\n';
    Ok(text)
}

/// The public part, if the file gives one, and the secret of exactly `secret_len` bytes.
pub fn decode(
    kind: &str,
    secret_len: usize,
    text: &SecretBytes,
) -> Result<(Option<Vec<u8>>, SecretBytes), FileError> {
    text.with(|bytes| {
        let mut lines = bytes
            .strip_suffix(b"\n")
            .unwrap_or(bytes)
            .split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        match first.strip_prefix(MAGIC.as_bytes()) {
            None => return Err(FileError::Malformed("not a key file of version 1")),
            Some(found) if found != kind.as_bytes() => {
                return Err(FileError::Malformed("a key file of another kind"))
            }
            Some(_) => {}
        }
        let mut line = lines
            .next()
            .ok_or(FileError::Malformed("the key is missing"))?;
        let mut public = None;
        if let Some(encoded) = line.strip_prefix(PUBLIC.as_bytes()) {
            public = Some(from_base64(encoded)?);
            line = lines
                .next()
                .ok_or(FileError::Malformed("the key is missing"))?;
        }
        if lines.next().is_some() {
            return Err(FileError::Malformed("lines after the key"));
        }
        Ok((public, secret_of(line, secret_len)?))
    })
}

fn secret_of(line: &[u8], len: usize) -> Result<SecretBytes, FileError> {
    let wrong = || FileError::Malformed("the key is not base64 of the right length");
    if line.len() != len.div_ceil(3) * 4 {
        return Err(wrong());
    }
    // The decoder asks for room in whole groups of three.
    let mut room = SecretBytes::zeroed(len.div_ceil(3) * 3).ok_or_else(no_memory)?;
    let found = STANDARD
        .decode_slice(line, room.as_mut())
        .map_err(|_| wrong())?;
    if found != len {
        return Err(wrong());
    }
    room.with(|bytes| SecretBytes::copy_of(&bytes[..len]))
        .ok_or_else(no_memory)
}

/// Base64 of public bytes only: the string is ordinary memory.
fn to_base64(public: &[u8]) -> String {
    let mut room = vec![0u8; public.len().div_ceil(3) * 4];
    let len = STANDARD
        .encode_slice(public, &mut room)
        .expect("the room fits exactly");
    room.truncate(len);
    String::from_utf8(room).expect("base64 is ASCII")
}

fn from_base64(encoded: &[u8]) -> Result<Vec<u8>, FileError> {
    let mut room = vec![0u8; encoded.len().div_ceil(4) * 3];
    let len = STANDARD
        .decode_slice(encoded, &mut room)
        .map_err(|_| FileError::Malformed("the public part is not base64"))?;
    room.truncate(len);
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let secret = SecretBytes::copy_of(&[7; 32]).unwrap();
        for public in [None, Some(&[1u8, 2, 3, 4][..])] {
            let text = encode("signing", public, &secret).unwrap();
            let (found, again) = decode("signing", 32, &text).unwrap();
            assert_eq!(found.as_deref(), public);
            assert_eq!(again.with(|b| b.to_vec()), [7; 32]);
            assert!(matches!(
                decode("hpke", 32, &text),
                Err(FileError::Malformed(_))
            ));
            assert!(matches!(
                decode("signing", 31, &text),
                Err(FileError::Malformed(_))
            ));
        }
    }

    #[test]
    fn hostile_texts_are_malformed() {
        let good =
            "# mesatee-key v1 secret\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n".to_owned();
        let accepted = |text: &str| {
            decode(
                "secret",
                32,
                &SecretBytes::copy_of(text.as_bytes()).unwrap(),
            )
            .is_ok()
        };
        assert!(accepted(&good));
        for bad in [
            "",
            "\n",
            "# mesatee-key v1 secret",
            "# mesatee-key v2 secret\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n",
            "# mesatee-key v1 secret\n# public: !\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n",
            "# mesatee-key v1 secret\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwd=\n",
        ] {
            assert!(!accepted(bad), "{bad:?}");
        }
        assert!(!accepted(&format!("{good}more\n")));
        assert!(!accepted(&good.replace('=', "A")));
    }
}
