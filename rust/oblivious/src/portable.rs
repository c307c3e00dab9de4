//! Compare-exchange without anything that a processor may lack.
use crate::choose::{equal, less, mask, swap};
use crate::network::{Words, BLOCK};

/// All ones if the element of `a` comes after the one of `b`, or, with `up` false, does not.
#[inline(always)]
fn wrong<const W: usize, const K: usize>(a: [u64; W], b: [u64; W], up: bool) -> u64 {
    let (mut after, mut same) = (0, 1);
    for word in 0..K {
        after |= same & less(b[word], a[word]);
        same &= equal(a[word], b[word]);
    }
    mask(after ^ u64::from(!up))
}

/// As many steps of a merge as `P` has bits: elements at the same place of parts that are `P` / 2, then half as many
/// parts, and so on, apart. Goes as far as the last part, which may be shorter than the others.
pub(crate) fn exchange_parts<const W: usize, const K: usize, const P: usize>(
    parts: &mut [Words<'_, W>; P],
    up: bool,
) {
    let size = parts[P - 1][0].len();
    for apart in (0..P.ilog2()).rev().map(|power| 1usize << power) {
        for number in (0..P).filter(|number| number & apart == 0) {
            let (lower, upper) = parts.split_at_mut(number + apart);
            exchange::<W, K>(&mut lower[number], &mut upper[0], size, up);
        }
    }
}

/// Compares each of `size` elements of `left` with the one at the same place of `right`.
fn exchange<const W: usize, const K: usize>(
    left: &mut Words<'_, W>,
    right: &mut Words<'_, W>,
    size: usize,
    up: bool,
) {
    for index in 0..size {
        let (a, b) = (
            left.each_ref().map(|word| word[index]),
            right.each_ref().map(|word| word[index]),
        );
        let swapped = wrong::<W, K>(a, b, up);
        for word in 0..W {
            swap(swapped, &mut left[word][index], &mut right[word][index]);
        }
    }
}

/// Compares elements `distance` apart within a block; those whose place has the bit `turn` go the other way.
fn step<const W: usize, const K: usize>(
    words: &mut Words<'_, W>,
    distance: usize,
    turn: usize,
    up: bool,
) {
    for index in (0..BLOCK).filter(|index| index & distance == 0) {
        let other = index + distance;
        let (a, b) = (
            words.each_ref().map(|word| word[index]),
            words.each_ref().map(|word| word[other]),
        );
        let swapped = wrong::<W, K>(a, b, up ^ (index & turn != 0));
        for word in words.iter_mut() {
            let (left, right) = word.split_at_mut(other);
            swap(swapped, &mut left[index], &mut right[0]);
        }
    }
}

/// Sorts one block.
pub(crate) fn sort_block<const W: usize, const K: usize>(mut words: Words<'_, W>, up: bool) {
    for length in (1..=BLOCK.ilog2()).map(|power| 1usize << power) {
        for distance in (0..length.ilog2()).rev().map(|power| 1usize << power) {
            step::<W, K>(&mut words, distance, length % BLOCK, up);
        }
    }
}

/// Merges one block that is bitonic.
pub(crate) fn merge_block<const W: usize, const K: usize>(mut words: Words<'_, W>, up: bool) {
    for distance in (0..BLOCK.ilog2()).rev().map(|power| 1usize << power) {
        step::<W, K>(&mut words, distance, 0, up);
    }
}
