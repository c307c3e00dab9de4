//! Memory files, by which data crosses into and out of a child.
use crate::sys::{self, Result};
use std::os::fd::RawFd;

/// Since Linux 6.3: never executable, and that cannot be changed.
const MFD_NOEXEC_SEAL: u32 = 0x0008;

/// A new memory file that can be sealed; the caller owns the descriptor, which is closed on exec.
pub fn memfd(name: &str) -> Result<RawFd> {
    let name = sys::path(name)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // An older kernel refuses the flag that it does not know.
    sys::memfd_create(&name, flags | MFD_NOEXEC_SEAL).or_else(|_| sys::memfd_create(&name, flags))
}

/// Forbid writing, growing and shrinking for good. Fails while a writable mapping exists.
pub fn memfd_seal(fd: RawFd) -> Result<()> {
    sys::add_seals(
        fd,
        libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::FromRawFd;

    #[test]
    fn a_sealed_file_cannot_be_written_or_resized() {
        let fd = memfd("test").unwrap();
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.write_all(b"data").unwrap();
        memfd_seal(fd).unwrap();
        assert!(file.write_all(b"more").is_err());
        assert!(file.set_len(1).is_err());
        assert!(file.set_len(9).is_err());
    }

    #[test]
    fn names_with_nul_are_refused() {
        assert!(memfd("a\0b").is_err());
    }
}
