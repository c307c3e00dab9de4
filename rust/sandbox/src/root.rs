//! A root folder that holds the readable paths and nothing else.
use crate::sys::{self, Result};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Where the old root stands for a moment.
const OLD: &str = "/.mesatee-old-root";
/// Folders over one of which the new root is first mounted; which one does not matter, it must exist.
const CANDIDATES: [&str; 4] = ["/tmp", "/mnt", "/run", "/var"];
const ROOT_OPTIONS: &str = "size=256k,nr_inodes=512,mode=0755";

/// Make the new root and enter it. `None` when this kernel does not let us; then nothing has changed. Otherwise
/// the descriptor by which the empty file `late` is filled, once and by whoever holds it: for everybody else the
/// file is read-only like the rest.
///
/// 1. No mount event of ours leaves the namespace.
/// 2. A small tmpfs becomes the root; the old root hangs below it.
/// 3. Each readable path is bound at its own place, read-only, without set-user-id and devices.
/// 4. The old root goes, `late` is opened, and the new root becomes read-only.
///
/// No `/proc`: nothing that a function needs is there, and without it no process can be looked at.
pub(crate) fn enter(read_paths: &[String], late: &str) -> Result<Option<RawFd>> {
    // Symbolic links are followed now: once the root has changed, absolute ones would point elsewhere.
    let bound: Vec<(String, String)> = places(read_paths);
    let Some(spot) = CANDIDATES.into_iter().find(|path| Path::new(path).is_dir()) else {
        return Ok(None);
    };
    // 1.
    let slash = sys::path("/")?;
    if sys::mount(
        "make private",
        None,
        &slash,
        None,
        libc::MS_REC | libc::MS_PRIVATE,
        None,
    )
    .is_err()
    {
        return Ok(None);
    }
    // 2.
    if pivot(spot).is_err() {
        return Ok(None);
    }
    // 3.
    for (source, target) in &bound {
        bind(source, target)?;
    }
    // 4.
    std::env::set_current_dir("/").map_err(|error| sys::SandboxError::new("chdir", error))?;
    sys::detach("detach old root", &sys::path(OLD)?)?;
    fs::remove_dir(OLD).map_err(|error| sys::SandboxError::new("remove old root", error))?;
    let filled = open_late(late)?;
    sys::mount_attributes(
        "read-only root",
        &slash,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
    )?;
    Ok(Some(filled))
}

/// An empty file in the root, and a descriptor that writes it.
///
/// A mount with an open writer cannot become read-only. So the file is opened by way of a mount of its own, which
/// then goes: the descriptor keeps that mount alive, and no path leads to it.
fn open_late(late: &str) -> Result<RawFd> {
    let failed = |error| sys::SandboxError::new("file that is filled later", error);
    fs::write(late, []).map_err(failed)?;
    let target = sys::path(late)?;
    sys::mount(
        "bind a file",
        Some(&target),
        &target,
        None,
        libc::MS_BIND,
        None,
    )?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(late)
        .map_err(failed)?;
    sys::detach("detach a file", &target)?;
    fs::set_permissions(late, fs::Permissions::from_mode(0o444)).map_err(failed)?;
    Ok(file.into_raw_fd())
}

fn pivot(spot: &str) -> Result<()> {
    let target = sys::path(spot)?;
    let kind = sys::path("tmpfs")?;
    let options = sys::path(ROOT_OPTIONS)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(
        "mount tmpfs",
        Some(&kind),
        &target,
        Some(&kind),
        flags,
        Some(&options),
    )?;
    let moved = (|| {
        let old = format!("{spot}{OLD}");
        fs::create_dir(&old).map_err(|error| sys::SandboxError::new("mkdir", error))?;
        sys::pivot_root(&target, &sys::path(&old)?)
    })();
    if moved.is_err() {
        // Readable paths may lie below the folder that the tmpfs covers.
        sys::detach("detach tmpfs", &target)?;
    }
    moved
}

/// Pairs of real path and wanted place, without those that lie below another.
fn places(read_paths: &[String]) -> Vec<(String, String)> {
    let mut wanted = BTreeSet::new();
    for path in read_paths {
        let Some(real) = fs::canonicalize(path)
            .ok()
            .and_then(|real| real.to_str().map(String::from))
        else {
            continue;
        };
        wanted.insert((path.clone(), real.clone()));
        wanted.insert((real.clone(), real));
    }
    let mut kept: Vec<(String, String)> = Vec::new();
    for (target, source) in wanted {
        let covered = kept
            .iter()
            .any(|(_, above)| Path::new(&target).starts_with(above));
        if !covered && target.starts_with('/') && target != "/" {
            kept.push((source, target));
        }
    }
    kept
}

fn bind(source: &str, target: &str) -> Result<()> {
    let old = format!("{OLD}{source}");
    let failed = |error| sys::SandboxError::new("place for a readable path", error);
    let mut maker = fs::DirBuilder::new();
    maker.recursive(true).mode(0o755);
    if Path::new(&old).is_dir() {
        maker.create(target).map_err(failed)?;
    } else {
        if let Some(parent) = Path::new(target).parent() {
            maker.create(parent).map_err(failed)?;
        }
        fs::write(target, []).map_err(failed)?;
    }
    let (old, target) = (sys::path(&old)?, sys::path(target)?);
    sys::mount(
        "bind",
        Some(&old),
        &target,
        None,
        libc::MS_BIND | libc::MS_REC,
        None,
    )?;
    sys::mount_attributes(
        "read-only bind",
        &target,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_others_missing_ones_and_the_root_are_left_out() {
        let paths = ["/usr/lib", "/usr", "/no/such/path", "/", "usr"].map(String::from);
        assert_eq!(
            places(&paths),
            vec![("/usr".to_string(), "/usr".to_string())]
        );
    }
}
