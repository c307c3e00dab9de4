//! Blocks without anything that a processor may lack.
#![forbid(unsafe_code)]
use crate::block::{Bits, Bytes, Sums, BITS, LEAVES, NONE, ROWS};
use crate::model::Missing;
use crate::planes::{Bounds, Compare, Plane, Set};
use crate::shape::{Plan, Scratch};
use std::hint::black_box;

/// A number whose sums are made.
pub(crate) trait Number:
    Copy + PartialOrd + Default + Send + Sync + std::ops::AddAssign + std::ops::Neg<Output = Self>
{
    /// Bytes of it.
    const SIZE: usize;
    /// What counts as zero for [`Missing::Zero`].
    const NEARLY_ZERO: Self;
    fn of(value: f64) -> Self;
    fn double(self) -> f64;
    /// Whether it is NaN.
    fn is_missing(self) -> bool;
    fn word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

impl Number for f32 {
    const SIZE: usize = 4;
    const NEARLY_ZERO: Self = 1e-35;
    fn of(value: f64) -> Self {
        value as f32
    }
    fn double(self) -> f64 {
        self.into()
    }
    fn is_missing(self) -> bool {
        self.is_nan()
    }
    fn word(self) -> u64 {
        self.to_bits().into()
    }
    fn from_word(word: u64) -> Self {
        Self::from_bits(word as u32)
    }
}

impl Number for f64 {
    const SIZE: usize = 8;
    const NEARLY_ZERO: Self = 1e-35f32 as f64;
    fn of(value: f64) -> Self {
        value
    }
    fn double(self) -> f64 {
        self
    }
    fn is_missing(self) -> bool {
        self.is_nan()
    }
    fn word(self) -> u64 {
        self.to_bits()
    }
    fn from_word(word: u64) -> Self {
        Self::from_bits(word)
    }
}

/// All ones for 1, all zeros for 0, without telling the compiler which.
#[inline(always)]
fn mask(bit: bool) -> u64 {
    black_box(0u64.wrapping_sub(u64::from(bit)))
}

/// The bytes of a plane.
pub(crate) fn rank<T: Number>(
    plane: &Plane,
    bounds: &Bounds<T>,
    values: &[T; ROWS],
    oblivious: bool,
    out: &mut Bytes,
) {
    let out = out.0.as_flattened_mut();
    for (value, out) in values.iter().zip(out) {
        let nan = value.is_missing();
        let nearly = *value <= T::NEARLY_ZERO && *value >= -T::NEARLY_ZERO;
        let missing = match plane.missing {
            Missing::Never => false,
            Missing::Nan => nan,
            Missing::Zero => nan | nearly,
        };
        let known = T::from_word(value.word() & !mask(nan));
        let reached = |bound: &T| {
            if plane.strict {
                known > *bound
            } else {
                known >= *bound
            }
        };
        let rank = if oblivious {
            let mut rank = 0u64;
            for bound in &bounds.sorted {
                rank += mask(reached(bound)) & 1;
            }
            rank as u8
        } else {
            bounds.sorted.partition_point(reached) as u8
        };
        let chosen = mask(missing) as u8;
        *out = rank ^ (chosen & (rank ^ plane.byte));
    }
}

/// Bits for the rows whose byte is at least `bound`: eight bytes of a word at a time.
fn compared(bytes: &[u8; 64], bound: u8) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let bound = u64::from(bound) * 0x0101_0101_0101_0101;
    let mut found = 0;
    for (number, eight) in bytes.chunks_exact(8).enumerate() {
        let mut word = [0; 8];
        word.copy_from_slice(eight);
        let word = u64::from_le_bytes(word);
        let low = (word | HIGH).wrapping_sub(bound & !HIGH);
        let reached = ((word & !bound) | (!(word ^ bound) & low)) & HIGH;
        found |= ((reached >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * number);
    }
    found
}

fn answer(planes: &[Bytes], node: &Compare) -> Bits {
    let bytes = &planes[node.plane as usize].0;
    std::array::from_fn(|word| compared(&bytes[word], node.bound))
}

fn member(planes: &[Bytes], set: &Set, oblivious: bool) -> Bits {
    let mut found = NONE;
    for (plane, table) in &set.terms {
        let bytes = planes[*plane as usize].0.as_flattened();
        for (row, byte) in bytes.iter().enumerate() {
            let goes = if oblivious {
                let mut goes = 0;
                for (at, says) in table.iter().enumerate() {
                    goes |= mask(at == usize::from(*byte)) & u64::from(*says);
                }
                goes
            } else {
                u64::from(table[usize::from(*byte)])
            };
            found[row / 64] |= (goes & 1) << (row % 64);
        }
    }
    found
}

/// Adds the values of a tree to the sums of a block.
pub(crate) fn add<T: Number>(
    plan: &Plan,
    planes: &[Bytes],
    scratch: &mut Scratch,
    sums: &mut Sums<T>,
    oblivious: bool,
) {
    scratch.find(
        plan,
        |node| answer(planes, node),
        |set| member(planes, set, oblivious),
    );
    let mut leaves = vec![T::default(); plan.entries];
    for output in 0..plan.width {
        let mut words = [0u64; ROWS];
        for group in 0..plan.groups {
            let size = T::SIZE * plan.entries;
            let table = &plan.tables[(output * plan.groups + group) * size..][..size];
            for (at, leaf) in leaves.iter_mut().enumerate() {
                let word = (0..T::SIZE).rev().fold(0u64, |word, byte| {
                    word << 8 | u64::from(table[byte * plan.entries + at])
                });
                *leaf = T::from_word(word);
            }
            let numbers = &scratch.numbers[group];
            for (row, word) in words.iter_mut().enumerate() {
                let (at, bit) = (row / 64, row % 64);
                let number = (0..BITS).fold(0, |number, place| {
                    number | ((numbers.bits[place][at] >> bit & 1) as usize) << place
                });
                let here = mask(numbers.here[at] >> bit & 1 == 1);
                debug_assert!(number < LEAVES);
                let value = if oblivious {
                    leaves.iter().enumerate().fold(0, |found, (leaf, value)| {
                        found | (mask(leaf == number) & value.word())
                    })
                } else {
                    leaves[number].word()
                };
                *word |= here & value;
            }
        }
        for (sum, word) in sums.of(plan.output + output).iter_mut().zip(&words) {
            *sum += T::from_word(*word);
        }
    }
}
