//! The names of the isolation layers, and which of them this kernel offers.
use crate::landlocked;
use std::collections::BTreeMap;
use std::io;

/// The closed list of layer names.
#[allow(missing_docs)] // The names say it.
pub mod layer {
    pub const USER: &str = "user_namespace";
    pub const MOUNT: &str = "mount_namespace";
    pub const PID: &str = "pid_namespace";
    pub const NETWORK: &str = "network_namespace";
    pub const IPC: &str = "ipc_namespace";
    pub const UTS: &str = "uts_namespace";
    pub const ROOT: &str = "private_root";
    pub const NOBODY: &str = "not_root";
    pub const LIMITS: &str = "resource_limits";
    pub const THREAD_LIMIT: &str = "thread_limit";
    pub const NO_CAPABILITIES: &str = "no_capabilities";
    pub const NOT_DUMPABLE: &str = "not_dumpable";
    pub const NO_NEW_PRIVS: &str = "no_new_privs";
    pub const LANDLOCK: &str = "landlock";
    pub const LANDLOCK_NETWORK: &str = "landlock_network";
    pub const LANDLOCK_SCOPE: &str = "landlock_scope";
    pub const SECCOMP: &str = "seccomp";
}

const YES: &str = "yes";

/// Makes system calls only; returns an errno, or 0.
type Probe = fn() -> i32;

/// Run `step` in a forked child, so that this process is not changed. `step` allocates nothing and takes no lock.
fn try_apart(step: Probe) -> String {
    // SAFETY: the child calls `step`, which makes system calls only, and `_exit`: no lock that another thread
    // may have held at the fork is touched.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return io::Error::last_os_error().to_string();
    }
    if child == 0 {
        let code = step();
        // SAFETY: `_exit` runs no handlers and does not return.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` lives on our stack; the child is ours and nobody else waits for it by number.
        let answer = unsafe { libc::waitpid(child, std::ptr::from_mut(&mut status), 0) };
        if answer == child {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return "the probe was lost".into();
        }
    }
    if !libc::WIFEXITED(status) {
        return "the probe was killed".into();
    }
    match libc::WEXITSTATUS(status) {
        0 => YES.into(),
        code => io::Error::from_raw_os_error(code).to_string(),
    }
}

fn errno_of(answer: i32) -> i32 {
    if answer == 0 {
        return 0;
    }
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EPERM)
}

fn try_namespaces(flags: i32) -> i32 {
    // SAFETY: both calls take integers only. Root may do without a user namespace, as `enter_namespaces` does.
    unsafe {
        if libc::geteuid() == 0 && libc::unshare(flags) == 0 {
            return 0;
        }
        errno_of(libc::unshare(flags | libc::CLONE_NEWUSER))
    }
}

fn try_seccomp() -> i32 {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads four bytes, which live on our stack.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            std::ptr::from_ref(&action),
        )
    };
    errno_of(answer as i32)
}

/// What this kernel offers: layer -> "yes" or the reason why not.
pub fn sandbox_layers() -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    let namespaces: [(&str, Probe); 6] = [
        (layer::USER, || try_namespaces(libc::CLONE_NEWUSER)),
        (layer::MOUNT, || try_namespaces(libc::CLONE_NEWNS)),
        (layer::PID, || try_namespaces(libc::CLONE_NEWPID)),
        (layer::NETWORK, || try_namespaces(libc::CLONE_NEWNET)),
        (layer::IPC, || try_namespaces(libc::CLONE_NEWIPC)),
        (layer::UTS, || try_namespaces(libc::CLONE_NEWUTS)),
    ];
    for (name, step) in namespaces {
        found.insert(name, try_apart(step));
    }
    found.insert(layer::SECCOMP, try_apart(try_seccomp));
    let abi = landlocked::kernel_abi();
    for (name, needed) in [
        (layer::LANDLOCK, 1),
        (layer::LANDLOCK_NETWORK, 4),
        (layer::LANDLOCK_SCOPE, 6),
    ] {
        let answer = if abi >= needed {
            YES.into()
        } else {
            format!("needs Landlock ABI {needed}, this kernel has {abi}")
        };
        found.insert(name, answer);
    }
    for always in [
        layer::LIMITS,
        layer::NO_CAPABILITIES,
        layer::NOT_DUMPABLE,
        layer::NO_NEW_PRIVS,
    ] {
        found.insert(always, YES.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_says_yes_or_why_not_and_changes_nothing() {
        let before = std::fs::read_link("/proc/self/ns/net").unwrap();
        let found = sandbox_layers();
        assert!(found.values().all(|answer| !answer.is_empty()));
        assert_eq!(found[layer::SECCOMP], YES);
        assert_eq!(before, std::fs::read_link("/proc/self/ns/net").unwrap());
    }

    #[test]
    fn a_failed_probe_carries_its_reason() {
        assert!(try_apart(|| libc::EPERM).contains("not permitted"));
    }
}
