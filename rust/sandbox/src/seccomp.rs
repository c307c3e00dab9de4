//! The system calls that a function may make: everything that is not listed answers EPERM.
use crate::sys::{self, Result, SandboxError};
use libc::*;
use seccompiler::{
    apply_filter_all_threads, BpfProgram, SeccompAction, SeccompCmpArgLen as Len,
    SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Allowed with any arguments: memory, time, own signals' handlers, and files that are already open or only read.
const PLAIN: &[c_long] = &[
    // Memory.
    SYS_brk,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_msync,
    SYS_munmap,
    // Open files.
    SYS_close,
    SYS_close_range,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup3,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fdatasync,
    SYS_fstat,
    SYS_fsync,
    SYS_ftruncate,
    SYS_lseek,
    SYS_pipe2,
    SYS_ppoll,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pselect6,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readv,
    SYS_sendfile,
    SYS_write,
    SYS_writev,
    // Looking at files; Landlock and the namespaces say which.
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getcwd,
    SYS_getdents64,
    SYS_newfstatat,
    SYS_readlinkat,
    SYS_statx,
    // Threads and signal handlers.
    SYS_exit,
    SYS_exit_group,
    SYS_get_robust_list,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_sigaltstack,
    // Who am I, what time is it.
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getcpu,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpid,
    SYS_getrandom,
    SYS_getrusage,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_nanosleep,
    SYS_times,
    SYS_uname,
];

/// The older forms that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    SYS_access,
    SYS_dup2,
    SYS_getrlimit,
    SYS_lstat,
    SYS_poll,
    SYS_readlink,
    SYS_select,
    SYS_stat,
    SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Not there, rather than forbidden, so that the C library uses the older call, whose arguments a filter can see.
const ABSENT: &[c_long] = &[SYS_clone3, SYS_openat2];

const OPEN_TO_WRITE: u64 = (O_ACCMODE | O_CREAT | O_TRUNC) as u64;
const FCNTL: &[c_int] = &[
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_SETFL,
    F_GET_SEALS,
];
const IOCTL: &[c_ulong] = &[TCGETS, TIOCGWINSZ, FIONREAD, FIOCLEX, FIONCLEX];
/// Waiting, without an end, for a word that others may share. It says nothing to them, and joining a thread needs it:
/// the kernel wakes whoever waits for the end of a thread by a call that is not private.
const JOIN: &[c_int] = &[FUTEX_WAIT_BITSET, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME];
const PRCTL: &[c_int] = &[PR_SET_NAME, PR_GET_NAME];

/// Every flag by which `clone` could make something else than a thread of this process.
const THREAD: u64 = (CLONE_VM | CLONE_THREAD | CLONE_SIGHAND) as u64;
const NOT_THREAD: u64 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_VFORK
    | CLONE_PTRACE
    | CLONE_PARENT
    | CLONE_PIDFD) as u64;

fn failed(error: impl std::fmt::Display) -> SandboxError {
    SandboxError::new("seccomp", error)
}

fn rule(conditions: &[(u8, Len, Op, u64)]) -> Result<SeccompRule> {
    let conditions: std::result::Result<Vec<_>, _> = conditions
        .iter()
        .map(|(index, length, op, value)| {
            SeccompCondition::new(*index, length.clone(), op.clone(), *value)
        })
        .collect();
    SeccompRule::new(conditions.map_err(failed)?).map_err(failed)
}

fn one_of(argument: u8, values: impl Iterator<Item = u64>) -> Result<Vec<SeccompRule>> {
    values
        .map(|value| rule(&[(argument, Len::Dword, Op::Eq, value)]))
        .collect()
}

fn allowed(threads: bool) -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN
        .iter()
        .chain(OLDER)
        .map(|number| (*number, Vec::new()))
        .collect();
    // Allowed here, since the other filter answers for these; of two errors the newer filter's would count.
    rules.extend(ABSENT.iter().map(|number| (*number, Vec::new())));
    let reading = |argument| rule(&[(argument, Len::Dword, Op::MaskedEq(OPEN_TO_WRITE), 0)]);
    rules.insert(SYS_openat, vec![reading(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(SYS_open, vec![reading(1)?]);
    rules.insert(
        SYS_fcntl,
        one_of(1, FCNTL.iter().map(|value| *value as u64))?,
    );
    rules.insert(SYS_ioctl, one_of(1, IOCTL.iter().copied())?);
    rules.insert(
        SYS_prctl,
        one_of(0, PRCTL.iter().map(|value| *value as u64))?,
    );
    // A word in a page of a file is one for all processes that map the file, so for two children, too.
    let private = FUTEX_PRIVATE_FLAG as u64;
    // Of the others `look_again` answers for some.
    let waits = JOIN.iter().chain(&[FUTEX_WAIT]);
    let mut futex = one_of(1, waits.map(|value| *value as u64))?;
    futex.push(rule(&[(1, Len::Dword, Op::MaskedEq(private), private)])?);
    rules.insert(SYS_futex, futex);
    if threads {
        rules.insert(
            SYS_clone,
            vec![rule(&[(
                0,
                Len::Qword,
                Op::MaskedEq(THREAD | NOT_THREAD),
                THREAD,
            )])?],
        );
    }
    // One's own limits may be read, never set.
    rules.insert(
        SYS_prlimit64,
        vec![rule(&[
            (0, Len::Dword, Op::Eq, 0),
            (2, Len::Qword, Op::Eq, 0),
        ])?],
    );
    // abort() of the C library: no other signal, and to nobody else.
    rules.insert(
        SYS_tgkill,
        vec![rule(&[
            (0, Len::Dword, Op::Eq, u64::from(sys::process_id())),
            (2, Len::Dword, Op::Eq, SIGABRT as u64),
        ])?],
    );
    Ok(rules)
}

/// Shared waits that a thread of this process would have to end, which `allowed` forbids to all: the run-time of C++
/// knows no other ones, for a variable that two threads need for the first time. Each is told that its word has
/// changed, as it may at any time; it looks again, until it has. Else it would wait for good.
fn look_again() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut waits = one_of(1, [FUTEX_WAIT as u64].into_iter())?;
    for operation in JOIN {
        waits.push(rule(&[
            (1, Len::Dword, Op::Eq, *operation as u64),
            (3, Len::Qword, Op::Ne, 0),
        ])?);
    }
    Ok(BTreeMap::from([(SYS_futex, waits)]))
}

/// Memory that is executable without being a mapped file: only a compiler makes it.
fn made_executable() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let executable = |argument| {
        (
            argument,
            Len::Dword,
            Op::MaskedEq(PROT_EXEC as u64),
            PROT_EXEC as u64,
        )
    };
    let anonymous = (
        3,
        Len::Dword,
        Op::MaskedEq(MAP_ANONYMOUS as u64),
        MAP_ANONYMOUS as u64,
    );
    Ok(BTreeMap::from([
        (SYS_mmap, vec![rule(&[executable(2), anonymous])?]),
        (SYS_mprotect, vec![rule(&[executable(2)])?]),
    ]))
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(failed)?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(BpfProgram::try_from)
        .map_err(failed)
}

/// The filters of one process: they name its id, so that a forked process needs its own.
struct Filters {
    process: u32,
    absent: BpfProgram,
    look_again: BpfProgram,
    no_compiler: BpfProgram,
    one_thread: BpfProgram,
    threads: BpfProgram,
}

static AHEAD: Mutex<Option<Filters>> = Mutex::new(None);

/// Compile all filters of this process, so that installing them takes no time later.
pub(crate) fn compile_ahead() -> Result<()> {
    let listed = |threads| {
        compile(
            allowed(threads)?,
            SeccompAction::Errno(EPERM as u32),
            SeccompAction::Allow,
        )
    };
    let filters = Filters {
        process: sys::process_id(),
        absent: compile(
            ABSENT.iter().map(|number| (*number, Vec::new())).collect(),
            SeccompAction::Allow,
            SeccompAction::Errno(ENOSYS as u32),
        )?,
        look_again: compile(
            look_again()?,
            SeccompAction::Allow,
            SeccompAction::Errno(EAGAIN as u32),
        )?,
        no_compiler: compile(
            made_executable()?,
            SeccompAction::Allow,
            SeccompAction::Errno(EPERM as u32),
        )?,
        one_thread: listed(false)?,
        threads: listed(true)?,
    };
    *AHEAD.lock().map_err(failed)? = Some(filters);
    Ok(())
}

/// Install the filters on every thread of this process and on all that they will make. There should be one thread;
/// that a filter holds does not hang on it. Fails without `compile_ahead`.
pub(crate) fn restrict(threads: bool, compiles: bool) -> Result<()> {
    let ahead = AHEAD.lock().map_err(failed)?;
    let Some(filters) = ahead
        .as_ref()
        .filter(|filters| filters.process == sys::process_id())
    else {
        return Err(failed("the filters of this process are not compiled"));
    };
    apply_filter_all_threads(&filters.absent).map_err(failed)?;
    apply_filter_all_threads(&filters.look_again).map_err(failed)?;
    if !compiles {
        apply_filter_all_threads(&filters.no_compiler).map_err(failed)?;
    }
    apply_filter_all_threads(if threads {
        &filters.threads
    } else {
        &filters.one_thread
    })
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_calls_are_not_listed() {
        let rules = allowed(true).unwrap();
        let dangerous = [
            SYS_execve,
            SYS_execveat,
            SYS_socket,
            SYS_socketpair,
            SYS_connect,
            SYS_bind,
            SYS_ptrace,
            SYS_kill,
            SYS_tkill,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_pidfd_open,
            SYS_pidfd_getfd,
            SYS_pidfd_send_signal,
            SYS_io_uring_setup,
            SYS_keyctl,
            SYS_add_key,
            SYS_bpf,
            SYS_userfaultfd,
            SYS_mount,
            SYS_pivot_root,
            SYS_setns,
            SYS_unshare,
            SYS_memfd_create,
            SYS_perf_event_open,
            SYS_open_by_handle_at,
            SYS_name_to_handle_at,
            SYS_fchmodat,
            SYS_fchownat,
            SYS_linkat,
            SYS_symlinkat,
            SYS_renameat2,
            SYS_unlinkat,
            SYS_mkdirat,
            SYS_truncate,
            SYS_personality,
            SYS_shmget,
            SYS_msgget,
            SYS_semget,
            SYS_setrlimit,
            SYS_seccomp,
        ];
        assert!(dangerous.iter().all(|number| !rules.contains_key(number)));
    }

    #[test]
    fn one_thread_means_no_clone_at_all() {
        assert!(!allowed(false).unwrap().contains_key(&SYS_clone));
        assert!(allowed(true).unwrap().contains_key(&SYS_clone));
    }

    #[test]
    fn filters_are_of_one_process_and_must_be_compiled_first() {
        *AHEAD.lock().unwrap() = None;
        assert!(restrict(true, true).is_err());
        compile_ahead().unwrap();
        // As if this process had been forked after the filters were compiled.
        AHEAD.lock().unwrap().as_mut().unwrap().process += 1;
        assert!(restrict(true, true).is_err());
    }
}
