//! What can go wrong, and how an `age` or I/O error becomes one of it.

use age::DecryptError;
use std::fmt;
use std::io::{Error, ErrorKind};

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Not of the format.
    Malformed,
    /// Over a limit.
    TooLarge,
    /// Altered, cut, extended, or opened with the wrong file key.
    Corrupt,
    /// The key does not fit.
    KeyRefused,
}

/// A failure of sealing or opening. No variant holds a secret.
#[derive(Debug)]
pub enum SealingError {
    /// The bytes or the key were refused.
    Rejected(Reject, &'static str),
    /// The operating system failed at what the text names.
    Io(&'static str, Error),
    /// The watcher asked to stop.
    Stopped,
}

/// The watcher asks to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl From<Stopped> for SealingError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl fmt::Display for SealingError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(_, text) => out.write_str(text),
            Self::Io(what, error) => write!(out, "cannot {what}: {error}"),
            Self::Stopped => out.write_str("stopped"),
        }
    }
}

impl std::error::Error for SealingError {}

impl SealingError {
    pub(crate) fn malformed(text: &'static str) -> Self {
        Self::Rejected(Reject::Malformed, text)
    }

    pub(crate) fn too_large(text: &'static str) -> Self {
        Self::Rejected(Reject::TooLarge, text)
    }

    pub(crate) fn corrupt(text: &'static str) -> Self {
        Self::Rejected(Reject::Corrupt, text)
    }

    pub(crate) fn key_refused(text: &'static str) -> Self {
        Self::Rejected(Reject::KeyRefused, text)
    }

    pub(crate) fn no_memory() -> Self {
        Self::Io("get memory", Error::from(ErrorKind::OutOfMemory))
    }

    pub(crate) fn no_randomness() -> Self {
        Self::Io("get randomness", Error::other("the system gave none"))
    }

    pub(crate) fn hash_failed() -> Self {
        Self::Io("hash", Error::other("the hashing thread ended"))
    }

    /// A failed write; a limit of the target's size is the caller's, not the system's.
    pub(crate) fn write(error: Error) -> Self {
        match error.kind() {
            ErrorKind::FileTooLarge => Self::too_large("the target may not grow that large"),
            _ => Self::Io("write the target", error),
        }
    }

    pub(crate) fn read(error: Error) -> Self {
        Self::Io("read the source", error)
    }

    /// Our own errors travel through the library inside an `io::Error`.
    pub(crate) fn carried(self) -> Error {
        Error::other(self)
    }

    /// Take our own error out again; what is left comes from the library and is `otherwise`.
    pub(crate) fn uncarry(error: Error, otherwise: &'static str) -> Self {
        match error.into_inner().map(|inner| inner.downcast::<Self>()) {
            Some(Ok(ours)) => *ours,
            _ => Self::corrupt(otherwise),
        }
    }

    pub(crate) fn decrypt(error: DecryptError) -> Self {
        match error {
            DecryptError::NoMatchingKeys => {
                Self::key_refused("the file was not sealed to this key")
            }
            DecryptError::InvalidMac => Self::corrupt(
                "the header does not verify: it was altered, or the file key is another one",
            ),
            DecryptError::Io(error) => Self::uncarry(error, "the sealed file ends too early"),
            DecryptError::InvalidHeader | DecryptError::UnknownFormat => {
                Self::malformed("not an age v1 header")
            }
            _ => Self::corrupt("the sealed file does not open"),
        }
    }
}
