//! Pages outside of memory, sealed by a key that never leaves it.
//!
//! A page is encrypted by AES-256-GCM under a key of the run (NIST SP 800-38D). Its nonce is the number of the write, which
//! no other write of the run has, and stays in memory: what is read opens only if it is what was written last, under this
//! number of a page. Whoever holds the file sees how many pages there are and when each is used.
#![forbid(unsafe_code)]

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM, NONCE_LEN};
use mesatee_oblivious::external::{Broken, Store};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use zeroize::Zeroizing;

const TAG: usize = 16;
const WORD: usize = 8;

/// The key of one run's pages.
#[derive(Debug)]
pub struct Key(LessSafeKey);

/// Sealed pages in a file.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    key: LessSafeKey,
    /// Words of a page.
    words: usize,
    /// Most bytes of the file.
    most: u64,
    /// Which write each page was written by last.
    written: RwLock<Vec<u64>>,
    writes: AtomicU64,
    /// Buffers of one page that nobody uses now.
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Scratch {
    /// A fresh key.
    ///
    /// # Errors
    ///
    /// If there are no random bytes for it.
    pub fn key() -> Result<Key, Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(|_| Error::other("no random bytes"))?;
        let key = UnboundKey::new(&AES_256_GCM, &*secret).map_err(|_| Error::other("no key"))?;
        Ok(Key(LessSafeKey::new(key)))
    }

    /// Pages of so many words in this file, which grows to at most `most` bytes. A key serves one of these.
    pub fn new(file: File, Key(key): Key, words: usize, most: u64) -> Self {
        Self {
            file,
            key,
            words,
            most,
            written: RwLock::default(),
            writes: AtomicU64::new(1),
            idle: Mutex::default(),
        }
    }

    fn bytes(&self) -> usize {
        self.words * WORD + TAG
    }

    fn place(&self, page: usize) -> Result<u64, Broken> {
        let full = || {
            Broken::Storage(Error::new(
                ErrorKind::FileTooLarge,
                "the scratch file is full",
            ))
        };
        let place = (page as u64)
            .checked_mul(self.bytes() as u64)
            .ok_or_else(full)?;
        if place + self.bytes() as u64 > self.most {
            return Err(full());
        }
        Ok(place)
    }

    /// Calls `work` with a buffer of one page.
    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let found = self.idle.lock().map(|mut idle| idle.pop());
        let mut buffer = found.ok().flatten().unwrap_or_default();
        let done = work(&mut buffer);
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(buffer);
        }
        done
    }
}

fn nonce(write: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..WORD].copy_from_slice(&write.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn about(page: usize) -> Aad<[u8; WORD]> {
    Aad::from((page as u64).to_le_bytes())
}

impl Store for Scratch {
    fn read(&self, page: usize, words: &mut [&mut [u64]]) -> Result<(), Broken> {
        let write = match self.written.read() {
            Ok(written) => written.get(page).copied(),
            Err(_) => None,
        };
        let write = write.ok_or(Broken::Altered)?;
        let place = self.place(page)?;
        self.with(|buffer| {
            buffer.resize(self.bytes(), 0);
            self.file
                .read_exact_at(buffer, place)
                .map_err(|error| match error.kind() {
                    // Shorter than what was written.
                    ErrorKind::UnexpectedEof => Broken::Altered,
                    _ => Broken::Storage(error),
                })?;
            let plain = self
                .key
                .open_in_place(nonce(write), about(page), buffer)
                .map_err(|_| Broken::Altered)?;
            let (found, _) = plain.as_chunks::<WORD>();
            let mut rest = found;
            for word in words {
                let (here, after) = rest.split_at_checked(word.len()).ok_or(Broken::Altered)?;
                rest = after;
                for (to, from) in word.iter_mut().zip(here) {
                    *to = u64::from_le_bytes(*from);
                }
            }
            Ok(())
        })
    }

    fn write(&self, page: usize, words: &[&[u64]]) -> Result<(), Broken> {
        let place = self.place(page)?;
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let failed = |_| Broken::Storage(Error::other("a page cannot be sealed"));
        self.with(|buffer| {
            buffer.clear();
            buffer.reserve(self.bytes());
            for word in words {
                buffer.extend(word.iter().flat_map(|word| word.to_le_bytes()));
            }
            let tag = self
                .key
                .seal_in_place_separate_tag(nonce(write), about(page), buffer)
                .map_err(failed)?;
            buffer.extend_from_slice(tag.as_ref());
            self.file
                .write_all_at(buffer, place)
                .map_err(Broken::Storage)
        })?;
        let mut written = self
            .written
            .write()
            .map_err(|_| Broken::Storage(Error::other("a thread ended early")))?;
        if page >= written.len() {
            // What was never written opens under no number.
            written.resize(page + 1, 0);
        }
        written[page] = write;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn file() -> File {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "mesatee-spill-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn scratch(pages: u64) -> Scratch {
        Scratch::new(file(), Scratch::key().unwrap(), 6, pages * (6 * 8 + 16))
    }

    fn read(scratch: &Scratch, page: usize) -> Result<[u64; 6], Broken> {
        let (mut one, mut two) = ([0; 3], [0; 3]);
        scratch.read(page, &mut [&mut one, &mut two])?;
        Ok([one[0], one[1], one[2], two[0], two[1], two[2]])
    }

    #[test]
    fn pages_come_back_as_they_were_written_last() {
        let scratch = scratch(3);
        for page in [0, 1, 2] {
            let first = page as u64;
            scratch.write(page, &[&[first, 2, 3], &[4, 5, 6]]).unwrap();
        }
        scratch.write(1, &[&[u64::MAX; 3], &[0; 3]]).unwrap();
        assert_eq!(read(&scratch, 0).unwrap(), [0, 2, 3, 4, 5, 6]);
        assert_eq!(
            read(&scratch, 1).unwrap()[..4],
            [u64::MAX, u64::MAX, u64::MAX, 0]
        );
        assert_eq!(read(&scratch, 2).unwrap()[0], 2);
    }

    #[test]
    fn nothing_of_a_page_stands_in_the_file() {
        let scratch = scratch(1);
        let said = u64::from_le_bytes(*b"canary!!");
        scratch.write(0, &[&[said; 3], &[said; 3]]).unwrap();
        let mut bytes = vec![0; scratch.bytes()];
        scratch.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.windows(8).all(|window| window != b"canary!!"));
    }

    #[test]
    fn what_is_not_what_was_written_last_is_refused() {
        let made = scratch(2);
        let size = made.bytes();
        let bytes = |page: usize| {
            let mut bytes = vec![0; size];
            made.file
                .read_exact_at(&mut bytes, (page * size) as u64)
                .unwrap();
            bytes
        };
        let put = |page: usize, bytes: &[u8]| {
            made.file.write_all_at(bytes, (page * size) as u64).unwrap();
        };
        made.write(0, &[&[1; 3], &[1; 3]]).unwrap();
        let old = bytes(0);
        made.write(0, &[&[2; 3], &[2; 3]]).unwrap();
        made.write(1, &[&[3; 3], &[3; 3]]).unwrap();
        let (zero, one) = (bytes(0), bytes(1));
        let altered = |page| matches!(read(&made, page), Err(Broken::Altered));
        // Each bit of a page and of its tag.
        for bit in 0..size * 8 {
            let mut wrong = zero.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            put(0, &wrong);
            assert!(altered(0), "bit {bit}");
        }
        // An older one, and one of another place.
        put(0, &old);
        assert!(altered(0));
        put(0, &one);
        assert!(altered(0));
        put(0, &zero);
        assert_eq!(read(&made, 0).unwrap(), [2; 6]);
        made.file.set_len(size as u64 + 1).unwrap();
        assert!(altered(1));
        assert!(altered(7) || matches!(read(&made, 7), Err(Broken::Storage(_))));
    }

    #[test]
    fn a_full_file_is_an_error() {
        let scratch = scratch(1);
        scratch.write(0, &[&[1; 3], &[1; 3]]).unwrap();
        let full = scratch.write(1, &[&[1; 3], &[1; 3]]);
        assert!(
            matches!(full, Err(Broken::Storage(error)) if error.kind() == ErrorKind::FileTooLarge)
        );
    }
}
