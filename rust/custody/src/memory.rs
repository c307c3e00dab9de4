//! Pages for secrets.

use std::ptr::NonNull;
use zeroize::Zeroize;

/// Stands behind the bytes; a page that the kernel wiped on fork has lost it.
const ALIVE: u8 = 0xA5;

/// Bytes in pages of their own: locked, not dumped, wiped on fork and on drop.
pub struct SecretBytes {
    start: NonNull<u8>,
    len: usize,
    mapped: usize,
}

// SAFETY: the pages belong to this value alone; shared access is read-only.
unsafe impl Send for SecretBytes {}
// SAFETY: as above; `&SecretBytes` gives no way to write.
unsafe impl Sync for SecretBytes {}

impl SecretBytes {
    /// `len` zero bytes; `None` if the system gives no memory.
    pub fn zeroed(len: usize) -> Option<Self> {
        let page = 4096;
        let mapped = (len + 1).div_ceil(page) * page;
        // SAFETY: an anonymous private mapping at an address that the kernel picks touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the range was just mapped. Each call may fail without harm: RLIMIT_MEMLOCK may be small, old kernels
        // lack an advice; `protect_process` reports what holds.
        unsafe {
            libc::mlock(address, mapped);
            libc::madvise(address, mapped, libc::MADV_DONTDUMP);
            libc::madvise(address, mapped, libc::MADV_WIPEONFORK);
        }
        let start = NonNull::new(address.cast::<u8>())?;
        // SAFETY: the mapping has room for `len + 1` bytes.
        unsafe { start.as_ptr().add(len).write_volatile(ALIVE) };
        Some(Self { start, len, mapped })
    }

    /// A copy of `bytes`; the caller wipes the original.
    pub fn copy_of(bytes: &[u8]) -> Option<Self> {
        let mut copy = Self::zeroed(bytes.len())?;
        copy.as_mut().copy_from_slice(bytes);
        Some(copy)
    }

    /// Fill with randomness of the operating system.
    pub fn fill_random(&mut self) -> Option<()> {
        getrandom::fill(self.as_mut()).ok()
    }

    /// Lend the bytes to a closure.
    ///
    /// # Panics
    /// In a forked child, where the kernel has wiped them: work under a key of zeros would be worse than none.
    pub fn with<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: the byte behind the contents belongs to the mapping; volatile, because the kernel may change it.
        let sign = unsafe { self.start.as_ptr().add(self.len).read_volatile() };
        assert_eq!(sign, ALIVE, "keys do not survive a fork");
        // SAFETY: `start` is valid for `len` bytes for as long as self lives, and nobody writes through a shared reference.
        use_it(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsMut<[u8]> for SecretBytes {
    /// The bytes, writable.
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `with`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.as_mut().zeroize();
        // SAFETY: the range was mapped by `zeroed` and is used by nobody after drop.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.mapped);
        }
    }
}

/// Make this process not dumpable (no ptrace by others of the same user, no core file) and lock its memory where allowed.
///
/// Returns the names of the measures that are active.
pub fn protect_process() -> Vec<&'static str> {
    let mut active = Vec::new();
    // SAFETY: prctl and setrlimit with constant arguments change only this process's own attributes.
    unsafe {
        if libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 {
            active.push("not-dumpable");
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        if libc::setrlimit(libc::RLIMIT_CORE, &none) == 0 {
            active.push("no-core-file");
        }
        // Lock on fault, so that address space that was only reserved costs no memory. Tried only where the limit leaves
        // room for everything: with a small limit later allocations would fail.
        let mut limit = none;
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) == 0
            && limit.rlim_cur == libc::RLIM_INFINITY
            && libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) == 0
        {
            active.push("memory-locked");
        }
    }
    active
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_and_lends() {
        let secret = SecretBytes::copy_of(b"abc").unwrap();
        assert_eq!(secret.with(|b| b.to_vec()), b"abc");
        assert_eq!(secret.len(), 3);
    }

    #[test]
    fn random_differs() {
        let mut a = SecretBytes::zeroed(32).unwrap();
        let mut b = SecretBytes::zeroed(32).unwrap();
        a.fill_random().unwrap();
        b.fill_random().unwrap();
        assert_ne!(a.with(|x| x.to_vec()), b.with(|x| x.to_vec()));
    }
}
