//! Files and pipes as streams that report progress, can be stopped, and tell read from write errors.

use crate::error::{SealingError, Stopped};
use aws_lc_rs::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;
use zeroize::Zeroize;

/// How much passes between two calls of [`Watch::progress`], in bytes.
pub const PROGRESS_BYTES: u64 = 16 * 1024 * 1024;
/// Size of the buffers between the library's 64 KiB chunks and the system calls, in bytes.
pub(crate) const BUFFER_BYTES: usize = 1024 * 1024;
/// Buffers that wait to be hashed; with this the memory in use is constant.
const HASH_QUEUE: usize = 2;

/// Looks on while bytes pass.
pub trait Watch {
    /// `done` bytes of plaintext have passed; called each [`PROGRESS_BYTES`] and at the end.
    fn progress(&self, done: u64) -> Result<(), Stopped>;
    /// A system call was interrupted by a signal.
    fn interrupted(&self) -> Result<(), Stopped>;
}

/// Nobody looks on.
pub struct Quiet;

impl Watch for Quiet {
    fn progress(&self, _: u64) -> Result<(), Stopped> {
        Ok(())
    }

    fn interrupted(&self) -> Result<(), Stopped> {
        Ok(())
    }
}

/// Counts plaintext and calls the watcher now and then.
pub(crate) struct Meter<'w> {
    watch: &'w dyn Watch,
    pub(crate) done: u64,
    told: u64,
}

impl<'w> Meter<'w> {
    pub(crate) fn new(watch: &'w dyn Watch) -> Self {
        Self {
            watch,
            done: 0,
            told: 0,
        }
    }

    pub(crate) fn add(&mut self, count: usize) -> Result<(), SealingError> {
        self.done += count as u64;
        if self.done - self.told >= PROGRESS_BYTES {
            self.told = self.done;
            self.watch.progress(self.done)?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<u64, SealingError> {
        if self.done > self.told {
            self.watch.progress(self.done)?;
        }
        Ok(self.done)
    }
}

/// A buffer that is overwritten before it is given back, because it held plaintext.
pub(crate) struct Plain(pub(crate) Vec<u8>, usize);

impl Plain {
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len], len)
    }

    /// Nothing was written beyond its first `len` bytes: the rest, which a small file never touches, need not be
    /// asked of the system only to be overwritten.
    pub(crate) fn held(&mut self, len: usize) {
        self.1 = len.min(self.0.len());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0[..self.1].zeroize();
    }
}

/// The source of bytes.
pub(crate) struct Source<'w> {
    file: File,
    watch: &'w dyn Watch,
}

impl<'w> Source<'w> {
    pub(crate) fn new(file: File, watch: &'w dyn Watch) -> Self {
        Self { file, watch }
    }

    pub(crate) fn pull(&mut self, room: &mut [u8]) -> Result<usize, SealingError> {
        loop {
            match self.file.read(room) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => self.watch.interrupted()?,
                Err(error) => return Err(SealingError::read(error)),
            }
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.pull(room).map_err(SealingError::carried)
    }
}

/// The target of bytes, unbuffered.
pub(crate) struct Target<'w> {
    file: File,
    watch: &'w dyn Watch,
}

impl<'w> Target<'w> {
    pub(crate) fn new(file: File, watch: &'w dyn Watch) -> Self {
        Self { file, watch }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SealingError> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(SealingError::write(ErrorKind::WriteZero.into())),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => self.watch.interrupted()?,
                Err(error) => return Err(SealingError::write(error)),
            }
        }
        Ok(())
    }
}

/// SHA-256 of a stream. Beyond the first buffer it runs beside the cipher, which alone takes a core.
enum Hasher {
    Here(Context),
    Beside(SyncSender<Arc<Vec<u8>>>, JoinHandle<Context>),
}

impl Hasher {
    fn update(self, bytes: &Arc<Vec<u8>>) -> Result<Self, SealingError> {
        match self {
            Self::Here(mut digest) => {
                digest.update(bytes);
                let (sender, receiver) = sync_channel::<Arc<Vec<u8>>>(HASH_QUEUE);
                let mut ours = digest.clone();
                let spawned = std::thread::Builder::new().spawn(move || {
                    for bytes in receiver {
                        ours.update(&bytes);
                    }
                    ours
                });
                // Where no thread can be had it stays here.
                Ok(match spawned {
                    Ok(thread) => Self::Beside(sender, thread),
                    Err(_) => Self::Here(digest),
                })
            }
            Self::Beside(sender, thread) => match sender.send(Arc::clone(bytes)) {
                Ok(()) => Ok(Self::Beside(sender, thread)),
                Err(_) => Err(SealingError::hash_failed()),
            },
        }
    }

    fn finish(self) -> Result<[u8; 32], SealingError> {
        let digest = match self {
            Self::Here(digest) => digest,
            Self::Beside(sender, thread) => {
                drop(sender);
                thread.join().map_err(|_| SealingError::hash_failed())?
            }
        };
        let mut out = [0u8; 32];
        out.copy_from_slice(digest.finish().as_ref());
        Ok(out)
    }
}

/// A buffered target that hashes and counts what passes.
pub(crate) struct Hashed<'w> {
    target: Target<'w>,
    buffer: Vec<u8>,
    /// `None` after a failure only.
    digest: Option<Hasher>,
    size: u64,
}

impl<'w> Hashed<'w> {
    pub(crate) fn new(target: Target<'w>) -> Self {
        Self {
            target,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            digest: Some(Hasher::Here(Context::new(&SHA256))),
            size: 0,
        }
    }

    fn spill(&mut self) -> Result<(), SealingError> {
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER_BYTES));
        let full = Arc::new(full);
        let digest = self.digest.take().ok_or_else(SealingError::hash_failed)?;
        self.digest = Some(digest.update(&full)?);
        self.size += full.len() as u64;
        self.target.push(&full)
    }

    /// Write what is left; the digest and the number of bytes.
    pub(crate) fn finish(mut self) -> Result<([u8; 32], u64), SealingError> {
        let digest = match self.digest.take().ok_or_else(SealingError::hash_failed)? {
            // A short stream starts no thread.
            Hasher::Here(mut digest) => {
                digest.update(&self.buffer);
                Hasher::Here(digest)
            }
            beside => beside.update(&Arc::new(self.buffer.clone()))?,
        };
        self.size += self.buffer.len() as u64;
        self.target.push(&self.buffer)?;
        Ok((digest.finish()?, self.size))
    }
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.spill().map_err(SealingError::carried)?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A seekable file with a position of its own, which leaves the position that is shared with the caller alone.
///
/// Its length is that of the moment when it was opened, and a header that was checked is not read again: whoever can
/// change the file meanwhile gains nothing but a failure.
pub(crate) struct At {
    file: File,
    position: u64,
    len: u64,
    head: Vec<u8>,
}

impl At {
    pub(crate) fn new(file: File, position: u64) -> Result<Self, SealingError> {
        let len = file.metadata().map_err(SealingError::read)?.len();
        Ok(Self {
            file,
            position,
            len,
            head: Vec::new(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Give these bytes from memory for the front of the file from now on.
    pub(crate) fn keep_head(&mut self, head: Vec<u8>) {
        self.head = head;
    }
}

impl Read for At {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if let Some(kept @ [_, ..]) = usize::try_from(self.position)
            .ok()
            .and_then(|at| self.head.get(at..))
        {
            let count = kept.len().min(room.len());
            room[..count].copy_from_slice(&kept[..count]);
            self.position += count as u64;
            return Ok(count);
        }
        let left = self.len.saturating_sub(self.position);
        let most = usize::try_from(left).map_or(room.len(), |left| room.len().min(left));
        loop {
            match self.file.read_at(&mut room[..most], self.position) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(SealingError::read(error).carried()),
            }
        }
    }
}

impl Seek for At {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(offset) => (self.position, offset),
            SeekFrom::End(offset) => (self.len, offset),
        };
        self.position = base
            .checked_add_signed(offset)
            .ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
