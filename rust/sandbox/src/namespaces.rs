//! Namespaces, the empty root and the loss of the root identity.
use crate::layers::layer;
use crate::root;
use crate::sys::{self, Result, SandboxError};
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// Set once RLIMIT_NPROC counts this sandbox alone: an own user namespace, and not the initial root user, whom the kernel exempts.
static OWN_COUNT: AtomicBool = AtomicBool::new(false);

/// Whether RLIMIT_NPROC bounds the threads of this sandbox and no others.
pub(crate) fn has_own_count() -> bool {
    OWN_COUNT.load(Ordering::Relaxed)
}

const KINDS: [(&str, i32); 5] = [
    (layer::MOUNT, libc::CLONE_NEWNS),
    (layer::PID, libc::CLONE_NEWPID),
    (layer::NETWORK, libc::CLONE_NEWNET),
    (layer::IPC, libc::CLONE_NEWIPC),
    (layer::UTS, libc::CLONE_NEWUTS),
];

/// Unshare all namespaces that work; returns the active layers, and with a private root the descriptor that fills
/// the file `late` in it. The caller has one thread and forks next.
///
/// 1. The process dies with its parent.
/// 2. Root unshares directly; others, and root without capabilities, unshare a user namespace first.
/// 3. In the mount namespace, a root with nothing but `read_paths`, read-only.
/// 4. Root becomes nobody, in a user namespace of its own.
///
/// Fails only when the process is left between two states.
pub fn enter_namespaces(
    read_paths: &[String],
    late: &str,
) -> Result<(Vec<&'static str>, Option<RawFd>)> {
    // 1.
    sys::prctl(
        "PR_SET_PDEATHSIG",
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL as u64,
    )?;
    // 2.
    let (uid, gid) = sys::effective_ids();
    let everybody_reads = uid == 0 && read_paths.iter().all(|path| readable_by_all(path));
    let mut active = Vec::new();
    let privileged =
        uid == 0 && sys::unshare("unshare", KINDS.iter().fold(0, |all, kind| all | kind.1)).is_ok();
    if privileged {
        active.extend(KINDS.iter().map(|kind| kind.0));
    } else {
        if own_user_namespace(uid, gid).is_ok() {
            active.push(layer::USER);
            OWN_COUNT.store(uid != 0, Ordering::Relaxed);
        }
        for (name, flag) in KINDS {
            if sys::unshare("unshare", flag).is_ok() {
                active.push(name);
            }
        }
    }
    // 3.
    let mut filled = None;
    if active.contains(&layer::MOUNT) {
        filled = root::enter(read_paths, late)?;
    }
    if filled.is_some() {
        active.push(layer::ROOT);
    }
    // 4.
    if privileged && everybody_reads && sys::become_user(NOBODY, NOBODY)? {
        active.push(layer::NOBODY);
        if sys::unshare("unshare", libc::CLONE_NEWUSER).is_ok() {
            active.push(layer::USER);
            OWN_COUNT.store(true, Ordering::Relaxed);
        }
    }
    // A change of credentials clears the parent-death signal and may make the process dumpable again.
    sys::prctl(
        "PR_SET_PDEATHSIG",
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL as u64,
    )?;
    sys::prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
    Ok((active, filled))
}

/// Others can enter the folder (or read the file) once it is reachable.
fn readable_by_all(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        let wanted = if found.is_dir() { 0o005 } else { 0o004 };
        found.permissions().mode() & wanted == wanted
    })
}

/// A user namespace in which this user is nobody.
fn own_user_namespace(uid: u32, gid: u32) -> Result<()> {
    // The maps belong to root while the process is not dumpable, so that only then they could not be written.
    sys::prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 1)?;
    sys::unshare("unshare user", libc::CLONE_NEWUSER)?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| SandboxError::new("user namespace map", error))
    };
    write("setgroups", "deny".into())?;
    write("gid_map", format!("{NOBODY} {gid} 1"))?;
    write("uid_map", format!("{NOBODY} {uid} 1"))
}
