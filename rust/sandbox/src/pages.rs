//! Large pages for what all children share, so that a fork copies fewer entries.
use crate::sys;
use std::fs::File;
use std::io::Read;

/// Bytes of a large page of x86-64 and of arm64 with 4 KiB pages; on other machines the kernel refuses and nothing changes.
const LARGE: usize = 2 * 1024 * 1024;

/// Ask the kernel to put the memory that this process has written into large pages; returns how many it made.
///
/// Contents and rights stay as they are: this is advice, which kernels before 6.1 do not know. A process that is
/// forked afterwards gets one entry for each such page instead of 512, until it writes there.
///
/// `maps` is this process's file of that name in `/proc`, opened before that was out of reach; None opens it.
pub fn collapse_memory(maps: Option<File>) -> usize {
    let Ok(mut maps) = maps.map_or_else(|| File::open("/proc/self/maps"), Ok) else {
        return 0;
    };
    let mut text = String::new();
    if maps.read_to_string(&mut text).is_err() {
        return 0;
    }
    written(&text)
        .into_iter()
        .filter(|start| sys::collapse(*start, LARGE))
        .count()
}

/// Starts of the whole large pages in private, writable memory of no file, of which the stack is none.
fn written(maps: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, "rw-p", _, _, "0", name @ ..] = fields.as_slice() else {
            continue;
        };
        if !matches!(name, [] | ["[heap]"]) {
            continue;
        }
        let Some((start, end)) = range.split_once('-').and_then(|(start, end)| {
            Some((
                usize::from_str_radix(start, 16).ok()?,
                usize::from_str_radix(end, 16).ok()?,
            ))
        }) else {
            continue;
        };
        let first = start.div_ceil(LARGE) * LARGE;
        found.extend(
            (first..end)
                .step_by(LARGE)
                .filter(|page| page + LARGE <= end),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_of_plain_memory_are_asked_for() {
        let maps = "\
00200000-00800000 rw-p 00000000 00:00 0 \n\
00a00001-00e00000 rw-p 00000000 00:00 0          [heap]\n\
01000000-01400000 r--p 00000000 00:00 0 \n\
02000000-02400000 rw-s 00000000 00:00 0 \n\
03000000-03400000 rw-p 00000000 fe:00 77         /usr/lib/x.so\n\
04000000-04400000 rw-p 00000000 00:00 0          [stack]\n\
05000000-05100000 rw-p 00000000 00:00 0 \n\
garbage\n";
        assert_eq!(
            written(maps),
            vec![0x20_0000, 0x40_0000, 0x60_0000, 0xc0_0000]
        );
    }

    #[test]
    fn contents_stay() {
        let data: Vec<u8> = (0..8 * LARGE).map(|at| (at % 251) as u8).collect();
        collapse_memory(None);
        assert!(data
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at % 251) as u8));
    }
}
