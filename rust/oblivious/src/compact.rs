//! Moves marked rows to the front, in their order; how many are marked decides nothing but the contents.
//!
//! ORCompact of Sasy, Johnson and Goldberg, "Fast Fully Oblivious Compaction and Shuffling", CCS 2022, algorithms 2 and 3:
//! n/2 log n exchanges at places that the number of rows decides.
use crate::choose::{less, mask, swap};
use crate::network::{both, Engine};

/// Rows fewer than these are not worth a thread of their own.
const THREAD: usize = 1 << 15;
/// Parts of so many rows are done level by level; they fit into the nearest cache.
const AT_ONCE: usize = 1 << 10;

/// Moves the rows whose mark is 1 to the front; returns how many there are. What follows them is the other rows, in no
/// particular order. A row is `width` words.
///
/// # Panics
///
/// If `rows` are not as many as `marks`, or a mark is neither 0 nor 1.
pub fn compact(
    rows: &mut [u64],
    width: usize,
    marks: &[u8],
    engine: Engine,
    threads: usize,
) -> usize {
    assert!(
        rows.len() == width * marks.len(),
        "rows and marks of different number"
    );
    let before = preceding(marks);
    if width > 0 {
        let how = How {
            width,
            engine,
            threads,
        };
        any_size(rows, &before, how);
    }
    before[marks.len()] as usize
}

/// How many marks precede each place, and at last how many there are.
///
/// # Panics
///
/// If a mark is neither 0 nor 1.
pub(crate) fn preceding(marks: &[u8]) -> Vec<u64> {
    // Marks are the callers' own; a wrong one is a fault of theirs, and to see it looks at all of them.
    assert!(
        marks.iter().fold(0, |all, mark| all | mark) <= 1,
        "a mark is 0 or 1"
    );
    let mut before = Vec::with_capacity(marks.len() + 1);
    let mut count = 0u64;
    before.push(0);
    for one in marks {
        count += u64::from(*one);
        before.push(count);
    }
    before
}

#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) width: usize,
    pub(crate) engine: Engine,
    pub(crate) threads: usize,
}

impl How {
    fn split(self) -> (Self, Self) {
        let threads = self.threads;
        (
            Self {
                threads: threads.div_ceil(2),
                ..self
            },
            Self {
                threads: threads / 2,
                ..self
            },
        )
    }
}

/// `before` has one entry more than there are rows: how many marks precede each.
pub(crate) fn any_size(rows: &mut [u64], before: &[u64], how: How) {
    let size = before.len() - 1;
    if size < 2 {
        return;
    }
    let large = 1usize << size.ilog2();
    let small = size - large;
    let marked = before[small] - before[0];
    let offset = first_offset(large as u64, small as u64, marked);
    let (left, right) = rows.split_at_mut(small * how.width);
    any_size(left, &before[..=small], how);
    power_of_two(right, &before[small..], offset, how);
    let (left, right) = rows.split_at_mut(large * how.width);
    exchange(&mut left[..right.len()], right, marked, 0, how);
}

/// Where the marked rows of the last `large` begin, if `marked` of the `small` rows before are.
pub(crate) fn first_offset(large: u64, small: u64, marked: u64) -> u64 {
    (large - small + marked) & (large - 1)
}

/// Of a part of `2 half` rows that is compacted from `offset` on, with `marked` in its first half: from which row on the
/// halves are exchanged, and, if the second is 1, up to which.
pub(crate) fn border(half: u64, offset: u64, marked: u64) -> (u64, u64) {
    let over = 1 ^ less((offset & (half - 1)) + marked, half);
    (
        (offset + marked) & (half - 1),
        over ^ (1 ^ less(offset, half)),
    )
}

/// Compacts to the places from `offset` on, around the end.
pub(crate) fn power_of_two(rows: &mut [u64], before: &[u64], offset: u64, how: How) {
    let size = before.len() - 1;
    if size <= AT_ONCE {
        return level_by_level(rows, before, offset, how);
    }
    let half = size as u64 / 2;
    let middle = size / 2;
    let marked = before[middle] - before[0];
    let (left, right) = rows.split_at_mut(middle * how.width);
    let (one, two) = how.split();
    both(
        how.threads > 1 && size >= THREAD,
        || power_of_two(left, &before[..=middle], offset & (half - 1), one),
        || {
            power_of_two(
                right,
                &before[middle..],
                (offset + marked) & (half - 1),
                two,
            )
        },
    );
    let (left, right) = rows.split_at_mut(middle * how.width);
    let (border, turned) = border(half, offset, marked);
    exchange(left, right, border, turned, how);
}

/// The same without going down: parts of two rows, then of four, and so on.
fn level_by_level(rows: &mut [u64], before: &[u64], offset: u64, how: How) {
    let size = before.len() - 1;
    let mut half = 1;
    while half < size {
        let parts = rows.chunks_exact_mut(2 * half * how.width);
        for (number, part) in parts.enumerate() {
            let counts = &before[2 * half * number..][..=half];
            // Where the part's own marked rows are to begin, around its end.
            let begin = (offset + counts[0] - before[0]) & (2 * half as u64 - 1);
            let (border, turned) = border(half as u64, begin, counts[half] - counts[0]);
            let (left, right) = part.split_at_mut(half * how.width);
            exchange_part(left, right, 0, border, turned, how);
        }
        half *= 2;
    }
}

/// Exchanges the rows of two halves from `border` on, or, if `turned` is 1, those before it.
pub(crate) fn exchange(left: &mut [u64], right: &mut [u64], border: u64, turned: u64, how: How) {
    let rows = left.len() / how.width;
    let middle = rows / 2;
    let (left, left_end) = left.split_at_mut(middle * how.width);
    let (right, right_end) = right.split_at_mut(middle * how.width);
    both(
        how.threads > 1 && rows >= THREAD,
        || exchange_part(left, right, 0, border, turned, how),
        || exchange_part(left_end, right_end, middle as u64, border, turned, how),
    );
}

/// The same for rows that follow `first` others.
pub(crate) fn exchange_part(
    left: &mut [u64],
    right: &mut [u64],
    first: u64,
    border: u64,
    turned: u64,
    how: How,
) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if how.width == 1 && how.engine == Engine::Avx512 && left.len() >= crate::avx512::LANES {
        done = crate::avx512::exchange_from(left, right, first, border, turned);
    }
    for (index, (one, two)) in left
        .chunks_exact_mut(how.width)
        .zip(right.chunks_exact_mut(how.width))
        .enumerate()
        .skip(done)
    {
        let swapped = mask(turned ^ (1 ^ less(first + index as u64, border)));
        exchange_row(swapped, one, two);
    }
}

#[inline(always)]
fn exchange_row(swapped: u64, left: &mut [u64], right: &mut [u64]) {
    for (a, b) in left.iter_mut().zip(right) {
        swap(swapped, a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: usize, width: usize, marks: &[u8]) {
        for engine in [Engine::Portable, Engine::best()] {
            check_by(engine, size, width, marks);
        }
    }

    fn check_by(engine: Engine, size: usize, width: usize, marks: &[u8]) {
        let row = |index: usize| (0..width).map(move |word| (index * 100 + word) as u64);
        let mut rows: Vec<u64> = (0..size).flat_map(row).collect();
        let count = compact(&mut rows, width, marks, engine, 2);
        let marked: Vec<usize> = (0..size).filter(|index| marks[*index] == 1).collect();
        let expected: Vec<u64> = marked.iter().flat_map(|index| row(*index)).collect();
        assert_eq!(count, marked.len());
        assert_eq!(rows[..count * width], expected, "{size} rows, {marks:?}");
        let mut rest: Vec<u64> = rows.chunks(width).map(|row| row[0]).collect();
        rest.sort_unstable();
        assert_eq!(
            rest,
            (0..size)
                .map(|index| index as u64 * 100)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_choice_of_few_rows() {
        for size in 0..=11 {
            for chosen in 0..1u32 << size {
                let marks: Vec<u8> = (0..size)
                    .map(|bit| u8::from(chosen >> bit & 1 == 1))
                    .collect();
                check(size, 2, &marks);
                check(size, 1, &marks);
            }
        }
    }

    #[test]
    fn many_rows() {
        for size in [63, 64, 65, 1000, 1024, 4097, 70_000] {
            for modulus in [1, 2, 3, 7, 1000] {
                let marks: Vec<u8> = (0..size)
                    .map(|index| u8::from(index * 7919 % modulus == 0))
                    .collect();
                check(size, 3, &marks);
                check(size, 1, &marks);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a mark is 0 or 1")]
    fn other_marks_are_refused() {
        compact(&mut [1], 1, &[2], Engine::Portable, 1);
    }
}
