//! The sorting network: which elements are compared with which is decided by the number of elements alone.
//!
//! An element has `W` words, each in an array of its own; the first `K` of them are its key, most significant first.
//! The sort is not stable. Bitonic sort for any size: H. W. Lang, "Bitonic sorting network for n not a power of 2"; below
//! [`BLOCK`] elements it goes on in registers.
use std::sync::Mutex;
use std::thread;

/// Elements that are sorted and merged in registers; a sort takes whole blocks.
pub const BLOCK: usize = 64;
/// Fewer elements than these are not worth a thread of their own.
const THREAD: usize = 1 << 15;

/// Which instructions do the work. Both give the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Without anything that a processor may lack.
    Portable,
    /// AVX-512 (F).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Engine {
    /// The fastest one that this processor has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            return Self::Avx512;
        }
        Self::Portable
    }
}

/// A step of the network by the engine's own code.
macro_rules! by {
    ($engine:expr, $step:ident $([$parts:ident])? ($($argument:expr),*)) => {
        match $engine {
            Engine::Portable => crate::portable::$step::<W, K $(, $parts)?>($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512 => crate::avx512::$step::<W, K $(, $parts)?>($($argument),*),
        }
    };
}

/// The arrays of the words of some elements, all of one length.
pub(crate) type Words<'a, const W: usize> = [&'a mut [u64]; W];

/// Both parts of `words`, cut at `middle`.
pub(crate) fn split<const W: usize>(
    words: Words<'_, W>,
    middle: usize,
) -> (Words<'_, W>, Words<'_, W>) {
    let mut right: Words<'_, W> = std::array::from_fn(|_| Default::default());
    let mut number = 0;
    let left = words.map(|word| {
        let (one, two) = word.split_at_mut(middle);
        right[number] = two;
        number += 1;
        one
    });
    (left, right)
}

/// `P` parts of one length; the last one may be shorter.
pub(crate) fn parts<const W: usize, const P: usize>(
    words: Words<'_, W>,
    length: usize,
) -> [Words<'_, W>; P] {
    let mut rest = Some(words);
    std::array::from_fn(|_| {
        let words = rest
            .take()
            .unwrap_or_else(|| std::array::from_fn(|_| Default::default()));
        let length = length.min(words[0].len());
        let (part, after) = split(words, length);
        rest = Some(after);
        part
    })
}

fn again<'a, const W: usize>(words: &'a mut Words<'_, W>) -> Words<'a, W> {
    words.each_mut().map(|word| &mut **word)
}

/// Sorts elements by their first `K` words, ascending, on at most `threads` threads.
///
/// # Panics
///
/// If the arrays differ in length, or it is no multiple of [`BLOCK`].
pub fn sort<const W: usize, const K: usize>(
    words: [&mut [u64]; W],
    engine: Engine,
    threads: usize,
) {
    const { assert!(K >= 1 && K <= W) };
    let size = words[0].len();
    assert!(
        words.iter().all(|word| word.len() == size),
        "words of different lengths"
    );
    assert!(size.is_multiple_of(BLOCK), "not whole blocks");
    if size > 0 {
        sort_part::<W, K>(words, true, engine, threads);
    }
}

pub(crate) fn sort_part<const W: usize, const K: usize>(
    mut words: Words<'_, W>,
    up: bool,
    engine: Engine,
    threads: usize,
) {
    let size = words[0].len();
    if size == BLOCK {
        return by!(engine, sort_block(words, up));
    }
    let middle = size / 2 / BLOCK * BLOCK;
    let (left, right) = split(again(&mut words), middle);
    both(
        threads > 1 && size >= THREAD,
        || sort_part::<W, K>(left, !up, engine, threads.div_ceil(2)),
        || sort_part::<W, K>(right, up, engine, threads / 2),
    );
    merge::<W, K>(words, up, engine, threads);
}

pub(crate) fn merge<const W: usize, const K: usize>(
    words: Words<'_, W>,
    up: bool,
    engine: Engine,
    threads: usize,
) {
    let size = words[0].len();
    if size == BLOCK {
        return by!(engine, merge_block(words, up));
    }
    // The largest power of two below the size.
    let middle = 1 << (usize::BITS - 1 - (size - 1).leading_zeros());
    if size != 2 * middle || size == 2 * BLOCK {
        return steps::<W, K, 2>(words, middle, up, engine, threads);
    }
    // Three steps in one pass over memory, as long as the words of eight elements fit into the registers.
    if size == 4 * BLOCK || W > 2 {
        return steps::<W, K, 4>(words, size / 4, up, engine, threads);
    }
    steps::<W, K, 8>(words, size / 8, up, engine, threads);
}

/// As many steps of a merge as `P`, a power of two, has bits, in one pass over memory; then the parts are merged.
fn steps<const W: usize, const K: usize, const P: usize>(
    mut words: Words<'_, W>,
    length: usize,
    up: bool,
    engine: Engine,
    threads: usize,
) {
    let worth = threads > 1 && words[0].len() >= THREAD;
    exchange_parts::<W, K, P>(parts(again(&mut words), length), up, engine, threads);
    if !worth {
        return merge_all::<W, K>(words, length, up, engine, 1);
    }
    let (left, right) = split(words, length * P / 2);
    both(
        true,
        || merge_all::<W, K>(left, length, up, engine, threads.div_ceil(2)),
        || merge_all::<W, K>(right, length, up, engine, threads / 2),
    );
}

/// One pass: as many steps as `P` has bits between elements at the same places of parts.
pub(crate) fn exchange_parts<const W: usize, const K: usize, const P: usize>(
    mut parts: [Words<'_, W>; P],
    up: bool,
    engine: Engine,
    threads: usize,
) {
    let shortest = parts[P - 1][0].len();
    if threads < 2 || P * shortest < THREAD {
        return by!(engine, exchange_parts[P](&mut parts, up));
    }
    let mut upper: [Words<'_, W>; P] =
        std::array::from_fn(|_| std::array::from_fn(|_| Default::default()));
    let mut number = 0;
    let lower = parts.map(|part| {
        let (one, two) = split(part, shortest / 2 / BLOCK * BLOCK);
        upper[number] = two;
        number += 1;
        one
    });
    both(
        true,
        || exchange_parts::<W, K, P>(lower, up, engine, threads.div_ceil(2)),
        || exchange_parts::<W, K, P>(upper, up, engine, threads / 2),
    );
}

/// Merges one part of `length` after the other.
fn merge_all<const W: usize, const K: usize>(
    mut words: Words<'_, W>,
    length: usize,
    up: bool,
    engine: Engine,
    threads: usize,
) {
    while !words[0].is_empty() {
        let length = length.min(words[0].len());
        let (part, rest) = split(words, length);
        merge::<W, K>(part, up, engine, threads);
        words = rest;
    }
}

/// Two pieces of work, the first on a thread of its own if that is `worth` it and there may be one more.
pub(crate) fn both(worth: bool, one: impl FnOnce() + Send, two: impl FnOnce()) {
    if !worth {
        one();
        return two();
    }
    let waiting = Mutex::new(Some(one));
    let take = || {
        let work = waiting.lock().ok().and_then(|mut found| found.take());
        if let Some(work) = work {
            work();
        }
    };
    thread::scope(|scope| {
        // A sandbox may allow no further thread.
        let started = thread::Builder::new().spawn_scoped(scope, take).is_ok();
        two();
        if !started {
            take();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        }
    }

    fn engines() -> Vec<Engine> {
        let mut found = vec![Engine::Portable];
        if Engine::best() != Engine::Portable {
            found.push(Engine::best());
        }
        found
    }

    /// Elements of few different keys, so that ties occur, and extremes.
    fn elements(size: usize, seed: u64) -> [Vec<u64>; 3] {
        let mut next = noise(seed);
        let word = |value: u64| match value % 7 {
            0 => u64::MAX,
            1 => 0,
            2 => value >> 61,
            _ => value,
        };
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for index in 0..size {
            found[0].push(word(next()));
            found[1].push(word(next()));
            found[2].push(index as u64);
        }
        found
    }

    #[test]
    fn it_sorts_whole_elements_whatever_their_number() {
        for engine in engines() {
            for blocks in [1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 64, 100] {
                for threads in [1, 2, 3] {
                    let [mut a, mut b, mut c] = elements(blocks * BLOCK, blocks as u64);
                    let mut expected: Vec<_> = (0..a.len()).map(|i| (a[i], b[i], c[i])).collect();
                    sort::<3, 2>([&mut a, &mut b, &mut c], engine, threads);
                    let mut found: Vec<_> = (0..a.len()).map(|i| (a[i], b[i], c[i])).collect();
                    assert!(found
                        .windows(2)
                        .all(|pair| (pair[0].0, pair[0].1) <= (pair[1].0, pair[1].1)));
                    found.sort_unstable();
                    expected.sort_unstable();
                    assert_eq!(found, expected, "{engine:?}, {blocks} blocks");
                }
            }
        }
    }

    #[test]
    fn one_word_is_key_and_element() {
        for engine in engines() {
            for size in [BLOCK, 5 * BLOCK, 1 << 12, 1 << 16] {
                let [mut a, ..] = elements(size, 9);
                let mut expected = a.clone();
                expected.sort_unstable();
                sort::<1, 1>([&mut a], engine, 2);
                assert_eq!(a, expected);
            }
        }
    }

    #[test]
    fn engines_agree_to_the_last_tie() {
        let all = engines();
        let mut found = all.iter().map(|engine| {
            let [mut a, mut b, mut c] = elements(77 * BLOCK, 5);
            a.iter_mut().for_each(|word| *word %= 3);
            sort::<3, 1>([&mut a, &mut b, &mut c], *engine, 1);
            (a, b, c)
        });
        let first = found.next();
        assert!(found.all(|other| Some(&other) == first.as_ref()));
    }

    #[test]
    #[should_panic(expected = "whole blocks")]
    fn parts_of_blocks_are_refused() {
        sort::<1, 1>([&mut [0; BLOCK + 1]], Engine::Portable, 1);
    }
}
