//! The system calls of this crate, each behind a safe function: all `unsafe` blocks but those of `layers` are here.
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// A step that failed, and why.
#[derive(Debug)]
pub struct SandboxError {
    step: &'static str,
    cause: String,
}

impl SandboxError {
    pub(crate) fn new(step: &'static str, cause: impl fmt::Display) -> Self {
        Self {
            step,
            cause: cause.to_string(),
        }
    }
}

impl fmt::Display for SandboxError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.step, self.cause)
    }
}

impl std::error::Error for SandboxError {}

pub(crate) type Result<T> = std::result::Result<T, SandboxError>;

fn check(step: &'static str, answer: i64) -> Result<i64> {
    if answer < 0 {
        return Err(SandboxError::new(step, io::Error::last_os_error()));
    }
    Ok(answer)
}

/// A path as the kernel takes it.
pub(crate) fn path(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| SandboxError::new("path", error))
}

pub(crate) fn prctl(step: &'static str, option: i32, value: u64) -> Result<i32> {
    // SAFETY: the options used by this crate take integers only; no memory is passed.
    let answer = unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) };
    check(step, i64::from(answer)).map(|value| value as i32)
}

/// Ask for a large page in place of the small ones from `start` on; whether the kernel made one.
pub(crate) fn collapse(start: usize, length: usize) -> bool {
    /// Since Linux 6.1; not in every version of the C library's bindings.
    const MADV_COLLAPSE: libc::c_int = 25;
    // SAFETY: this advice changes neither contents nor rights of memory, whatever the range is; nothing is dereferenced.
    unsafe { libc::madvise(start as *mut libc::c_void, length, MADV_COLLAPSE) == 0 }
}

pub(crate) fn unshare(step: &'static str, flags: i32) -> Result<()> {
    // SAFETY: `unshare` takes flags only. CLONE_FILES, CLONE_FS and CLONE_VM are not used here.
    check(step, i64::from(unsafe { libc::unshare(flags) })).map(|_| ())
}

pub(crate) fn mount(
    step: &'static str,
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or a NUL-terminated string that outlives the call.
    let answer = unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(options).cast(),
        )
    };
    check(step, i64::from(answer)).map(|_| ())
}

/// `mount_setattr` on a whole tree: only adds attributes, so that locked ones stay.
pub(crate) fn mount_attributes(step: &'static str, target: &CStr, add: u64) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: add,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the structure lives on our stack for the whole call and its exact size is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_RECURSIVE,
            std::ptr::from_ref(&attributes),
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    check(step, answer).map(|_| ())
}

pub(crate) fn detach(step: &'static str, target: &CStr) -> Result<()> {
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    check(
        step,
        i64::from(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }),
    )
    .map(|_| ())
}

pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    // SAFETY: both paths are NUL-terminated strings that outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) };
    check("pivot_root", answer).map(|_| ())
}

pub(crate) fn effective_ids() -> (u32, u32) {
    // SAFETY: neither call takes an argument or can fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Take another identity for good, group and user, real, effective and saved, and leave all other groups.
///
/// `false`, with nothing changed, where this user namespace does not have that identity.
pub(crate) fn become_user(uid: u32, gid: u32) -> Result<bool> {
    // SAFETY: these calls take integers only.
    if unsafe { libc::setresgid(gid, gid, gid) } != 0 {
        return Ok(false);
    }
    // SAFETY: an empty list is passed by length 0, so that the pointer is never read; the rest are integers.
    unsafe {
        check("setgroups", i64::from(libc::setgroups(0, std::ptr::null())))?;
        check("setresuid", i64::from(libc::setresuid(uid, uid, uid)))?;
    }
    Ok(true)
}

pub(crate) fn process_id() -> u32 {
    std::process::id()
}

pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the caller of `enter_sandbox` gives up all other descriptors; no memory is passed.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    check("close_range", answer).map(|_| ())
}

/// Hard and soft alike.
pub(crate) fn set_limit(step: &'static str, resource: u32, value: u64) -> Result<()> {
    set_limits(step, resource, value, value)
}

pub(crate) fn set_limits(step: &'static str, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure lives on our stack for the whole call.
    let answer = unsafe { libc::setrlimit(resource as _, std::ptr::from_ref(&limit)) };
    check(step, i64::from(answer)).map(|_| ())
}

/// End the process at once, without any handler; may be called in a signal handler.
pub(crate) fn end_now(code: i32) -> ! {
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(code) }
}

/// Have `handler` called for `signal`; it may do nothing but what is async-signal-safe.
pub(crate) fn end_on_signal(
    step: &'static str,
    signal: i32,
    handler: extern "C" fn(libc::c_int),
) -> Result<()> {
    let address = handler as *const () as libc::sighandler_t;
    // SAFETY: the handler is a function of this program with the signature that the kernel calls.
    let before = unsafe { libc::signal(signal, address) };
    check(step, if before == libc::SIG_ERR { -1 } else { 0 }).map(|_| ())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Give up every capability of the calling thread.
pub(crate) fn drop_capabilities() -> Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none = [CapabilityData {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: version 3 reads one header and two data blocks, which is what lives on our stack.
    let answer =
        unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), none.as_ptr()) };
    check("capset", answer).map(|_| ())
}

pub(crate) fn memfd_create(name: &CStr, flags: u32) -> Result<RawFd> {
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let answer = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    check("memfd_create", i64::from(answer)).map(|value| value as RawFd)
}

pub(crate) fn add_seals(fd: RawFd, seals: i32) -> Result<()> {
    // SAFETY: F_ADD_SEALS takes an integer.
    check(
        "F_ADD_SEALS",
        i64::from(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }),
    )
    .map(|_| ())
}

const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;

/// The kernel's Landlock ABI. The crate answers this only by restricting the caller.
pub(crate) fn landlock_version() -> Result<i32> {
    // SAFETY: with this flag the kernel takes a null pointer and size 0, and makes no ruleset.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    check("landlock_create_ruleset", answer).map(|value| value as i32)
}
