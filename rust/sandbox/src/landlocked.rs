//! Landlock: read-only access to the given paths; no TCP, abstract Unix sockets or signals to outside.
use crate::layers::layer;
use crate::sys::{self, Result, SandboxError};
use landlock::{
    Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, ABI,
};

/// The newest ABI that we ask for; the crate takes away what the kernel lacks.
const WANTED: ABI = ABI::V7;

/// The Landlock ABI of the running kernel; 0 when there is none.
pub(crate) fn kernel_abi() -> i32 {
    sys::landlock_version().unwrap_or(0)
}

/// The ABI that a ruleset reached.
fn abi(status: &LandlockStatus) -> i32 {
    match status {
        LandlockStatus::Available { effective_abi, .. } => *effective_abi as i32,
        _ => 0,
    }
}

/// Restrict this process for good; returns the parts that are active.
pub(crate) fn restrict(read_paths: &[String]) -> Result<Vec<&'static str>> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::new("Landlock", error);
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(WANTED)))
        .and_then(|rules| rules.scope(Scope::from_all(WANTED)))
        .and_then(Ruleset::create)
        .map_err(|error| failed(&error))?;
    // Not AccessFs::Execute: nothing is to be executed, and loading a library does not need it.
    for path in read_paths {
        let fd = match PathFd::new(path) {
            Ok(fd) => fd,
            // A path that is not there cannot be read either.
            Err(_) => continue,
        };
        let access = if std::path::Path::new(path).is_dir() {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::ReadFile.into()
        };
        rules = rules
            .add_rule(PathBeneath::new(fd, access))
            .map_err(|error| failed(&error))?;
    }
    let status = rules.restrict_self().map_err(|error| failed(&error))?;
    let mut active = Vec::new();
    if status.ruleset != RulesetStatus::NotEnforced {
        let reached = abi(&status.landlock);
        active.push(layer::LANDLOCK);
        if reached >= ABI::V4 as i32 {
            active.push(layer::LANDLOCK_NETWORK);
        }
        if reached >= ABI::V6 as i32 {
            active.push(layer::LANDLOCK_SCOPE);
        }
    }
    Ok(active)
}
