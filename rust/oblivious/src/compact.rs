//! Moves marked rows to the front, in their order; how many are marked decides nothing but the contents.
//!
//! ORCompact of Sasy, Johnson and Goldberg, "Fast Fully Oblivious Compaction and Shuffling", CCS 2022, algorithms 2 and 3:
//! n/2 log n exchanges at places that the number of rows decides.
use crate::choose::{less, mask, swap};

/// Moves the rows whose mark is 1 to the front; returns how many there are. What follows them is the other rows, in no
/// particular order. A row is `width` words.
///
/// # Panics
///
/// If `rows` are not as many as `marks`, or a mark is neither 0 nor 1.
pub fn compact(rows: &mut [u64], width: usize, marks: &[u8]) -> usize {
    assert!(
        rows.len() == width * marks.len(),
        "rows and marks of different number"
    );
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
    if width > 0 {
        any_size(rows, width, &before);
    }
    count as usize
}

/// `before` has one entry more than there are rows: how many marks precede each.
fn any_size(rows: &mut [u64], width: usize, before: &[u64]) {
    let size = before.len() - 1;
    if size < 2 {
        return;
    }
    let large = 1usize << size.ilog2();
    let small = size - large;
    let marked = before[small] - before[0];
    let (left, right) = rows.split_at_mut(small * width);
    any_size(left, width, &before[..=small]);
    power_of_two(
        right,
        width,
        &before[small..],
        (large as u64 - small as u64 + marked) & (large as u64 - 1),
    );
    for index in 0..small {
        let swapped = mask(1 ^ less(index as u64, marked));
        let (left, right) = rows.split_at_mut((index + large) * width);
        exchange(
            swapped,
            &mut left[index * width..(index + 1) * width],
            &mut right[..width],
        );
    }
}

/// Compacts to the places from `offset` on, around the end.
fn power_of_two(rows: &mut [u64], width: usize, before: &[u64], offset: u64) {
    let size = before.len() - 1;
    if size < 2 {
        return;
    }
    let half = size as u64 / 2;
    let middle = size / 2;
    let marked = before[middle] - before[0];
    if size == 2 {
        let second = before[2] - before[1];
        let (left, right) = rows.split_at_mut(width);
        return exchange(mask(((1 ^ marked) & second) ^ offset), left, right);
    }
    let (left, right) = rows.split_at_mut(middle * width);
    power_of_two(left, width, &before[..=middle], offset & (half - 1));
    power_of_two(
        right,
        width,
        &before[middle..],
        (offset + marked) & (half - 1),
    );
    // Whether the border between the exchanged and the others goes the other way round.
    let over = 1 ^ less((offset & (half - 1)) + marked, half);
    let turned = over ^ (1 ^ less(offset, half));
    let border = (offset + marked) & (half - 1);
    for (index, (one, two)) in left
        .chunks_exact_mut(width)
        .zip(right.chunks_exact_mut(width))
        .enumerate()
    {
        let swapped = mask(turned ^ (1 ^ less(index as u64, border)));
        exchange(swapped, one, two);
    }
}

#[inline(always)]
fn exchange(swapped: u64, left: &mut [u64], right: &mut [u64]) {
    for (a, b) in left.iter_mut().zip(right) {
        swap(swapped, a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: usize, width: usize, marks: &[u8]) {
        let row = |index: usize| (0..width).map(move |word| (index * 100 + word) as u64);
        let mut rows: Vec<u64> = (0..size).flat_map(row).collect();
        let count = compact(&mut rows, width, marks);
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
            }
        }
    }

    #[test]
    fn many_rows() {
        for size in [63, 64, 65, 1000, 1024, 4097] {
            for modulus in [1, 2, 3, 7, 1000] {
                let marks: Vec<u8> = (0..size)
                    .map(|index| u8::from(index * 7919 % modulus == 0))
                    .collect();
                check(size, 3, &marks);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a mark is 0 or 1")]
    fn other_marks_are_refused() {
        compact(&mut [1], 1, &[2]);
    }
}
