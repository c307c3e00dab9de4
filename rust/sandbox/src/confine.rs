//! Locking the calling process in, for good.
use crate::layers::layer;
use crate::sys::{self, Result};
use crate::{landlocked, namespaces, seccomp};

/// What the child may use for its job.
#[derive(Debug, Clone)]
pub struct Confinement<'a> {
    /// RLIMIT_DATA, in bytes, everything included.
    pub address_space: u64,
    /// Only for a process that runs compiled WebAssembly: it may make memory executable that is no mapped file, and
    /// reserve this much address space, in bytes, without using it. RLIMIT_AS is larger by that.
    pub compiled: Option<u64>,
    /// Processor time in seconds; then the process ends with [`OUT_OF_CPU`], or by SIGKILL a second later.
    pub cpu_seconds: u64,
    /// RLIMIT_FSIZE, in bytes: the largest file, memory files included.
    pub file_bytes: u64,
    /// Threads, the first included; at least 1.
    pub threads: u64,
    /// Descriptors that stay open; all others are closed.
    pub keep_fds: &'a [u32],
}

/// Descriptors that a function may open beyond those that it was given.
const SPARE_DESCRIPTORS: u64 = 256;
/// Bytes of locked memory and of message queues: none.
const NONE: u64 = 0;
/// Capabilities are numbered below this; the kernel refuses numbers that it does not know.
const CAPABILITIES: u64 = 64;
/// Seconds of processor time after which a process that caught or ignored SIGXCPU is killed.
const CPU_GRACE: u64 = 1;

/// The exit code of a process that used up its processor time: what a shell says of one that died of SIGXCPU.
pub const OUT_OF_CPU: i32 = 128 + libc::SIGXCPU;

/// Prepare the process from which children are forked: no core file, not dumpable, `no_new_privs`, and its
/// children's orphans become its own, so that none is left unreaped.
pub fn prepare_zygote() -> Result<()> {
    sys::set_limit("RLIMIT_CORE", libc::RLIMIT_CORE, NONE)?;
    sys::prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
    sys::prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::prctl("PR_SET_CHILD_SUBREAPER", libc::PR_SET_CHILD_SUBREAPER, 1).map(|_| ())
}

/// Confine the calling process as far as it can be done before its job is known; returns the active layers.
///
/// It has one thread, runs no foreign code yet, and calls [`enter_sandbox`] when its job has come.
///
/// 1. It dies with its parent, and only the named descriptors stay open.
/// 2. No capabilities, not dumpable, `no_new_privs`.
/// 3. Landlock, as far as the kernel has it.
/// 4. The seccomp filters are compiled, not yet installed.
pub fn prepare_sandbox(read_paths: &[String], keep_fds: &[u32]) -> Result<Vec<&'static str>> {
    // 1.
    sys::prctl(
        "PR_SET_PDEATHSIG",
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL as u64,
    )?;
    close_others(keep_fds)?;
    // 2.
    for capability in 0..CAPABILITIES {
        // Refused without CAP_SETPCAP or beyond the last capability; no_new_privs below covers both.
        let _ = sys::prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, capability);
    }
    sys::drop_capabilities()?;
    sys::prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, 0)?;
    sys::prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let mut active = vec![
        layer::NO_CAPABILITIES,
        layer::NOT_DUMPABLE,
        layer::NO_NEW_PRIVS,
    ];
    // 3.
    active.extend(landlocked::restrict(read_paths)?);
    // 4.
    seccomp::compile_ahead()?;
    Ok(active)
}

/// Leave of what [`prepare_sandbox`] made readable only `read_paths`, for good. Nothing becomes readable by this. Does
/// nothing on a kernel without Landlock. Comes before [`enter_sandbox`], after which the call is refused.
pub fn narrow_sandbox(read_paths: &[String]) -> Result<()> {
    landlocked::restrict(read_paths).map(|_| ())
}

/// Confine the calling process for good, by what its job may use; returns the layers that this adds.
///
/// 1. Only the named descriptors stay open.
/// 2. Resource limits.
/// 3. seccomp.
///
/// Fails when [`prepare_sandbox`] did not come before it, in this process.
pub fn enter_sandbox(wanted: &Confinement<'_>) -> Result<Vec<&'static str>> {
    // 1.
    close_others(wanted.keep_fds)?;
    // 2.
    let mut active = limit(wanted)?;
    // 3.
    seccomp::restrict(wanted.threads > 1, wanted.compiled.is_some())?;
    active.push(layer::SECCOMP);
    Ok(active)
}

fn close_others(keep: &[u32]) -> Result<()> {
    let mut kept = keep.to_vec();
    kept.sort_unstable();
    kept.dedup();
    let mut next = 0;
    for fd in kept {
        if fd > next {
            sys::close_range(next, fd - 1)?;
        }
        next = fd.saturating_add(1);
    }
    sys::close_range(next, u32::MAX)
}

extern "C" fn end_out_of_cpu(_: libc::c_int) {
    sys::end_now(OUT_OF_CPU);
}

fn limit(wanted: &Confinement<'_>) -> Result<Vec<&'static str>> {
    let highest = u64::from(wanted.keep_fds.iter().copied().max().unwrap_or(0));
    let limits = [
        (
            "RLIMIT_AS",
            libc::RLIMIT_AS,
            wanted
                .address_space
                .saturating_add(wanted.compiled.unwrap_or(0)),
        ),
        // Counts what is private and writable, so that reserved address space is no memory to be used.
        ("RLIMIT_DATA", libc::RLIMIT_DATA, wanted.address_space),
        ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE, wanted.file_bytes),
        (
            "RLIMIT_NOFILE",
            libc::RLIMIT_NOFILE,
            highest + SPARE_DESCRIPTORS,
        ),
        ("RLIMIT_CORE", libc::RLIMIT_CORE, NONE),
        ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK, NONE),
        ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE, NONE),
    ];
    for (name, resource, value) in limits {
        sys::set_limit(name, resource, value)?;
    }
    // Process 1 of a PID namespace ignores a signal that has no handler, so that this one needs ours.
    sys::end_on_signal("SIGXCPU handler", libc::SIGXCPU, end_out_of_cpu)?;
    sys::set_limits(
        "RLIMIT_CPU",
        libc::RLIMIT_CPU,
        wanted.cpu_seconds,
        wanted.cpu_seconds + CPU_GRACE,
    )?;
    let mut active = vec![layer::LIMITS];
    if wanted.threads <= 1 {
        // seccomp refuses clone altogether.
        active.push(layer::THREAD_LIMIT);
    } else if namespaces::has_own_count() {
        // The outer child lives in the same user namespace and counts too.
        sys::set_limit("RLIMIT_NPROC", libc::RLIMIT_NPROC, wanted.threads + 1)?;
        active.push(layer::THREAD_LIMIT);
    }
    Ok(active)
}
