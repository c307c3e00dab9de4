//! Compare-exchange of eight elements at a time. `portable.rs` says what each function does.
//!
//! Comparisons become mask registers, and masks choose in blends: no branch and no address depends on them. All functions
//! are called through [`crate::Engine::Avx512`], which exists only where the processor was asked.
use crate::network::{Words, BLOCK};
use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_cmpeq_epi64_mask, _mm512_cmpge_epu64_mask,
    _mm512_cmpgt_epu64_mask, _mm512_loadu_si512, _mm512_mask_blend_epi64, _mm512_permutex_epi64,
    _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512, _mm512_shuffle_i64x2,
    _mm512_storeu_si512,
};

/// Words of a vector.
pub(crate) const LANES: usize = 8;
const VECTORS: usize = BLOCK / LANES;

type Vector<const W: usize> = [__m512i; W];

#[inline]
#[target_feature(enable = "avx512f")]
fn load<const W: usize>(words: &Words<'_, W>, at: usize) -> Vector<W> {
    let mut found = [_mm512_setzero_si512(); W];
    for (vector, word) in found.iter_mut().zip(words) {
        let lanes = &word[at..at + LANES];
        // SAFETY: `lanes` has as many bytes as a vector; the load needs no alignment.
        *vector = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
    }
    found
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const W: usize>(words: &mut Words<'_, W>, at: usize, vectors: Vector<W>) {
    for (vector, word) in vectors.into_iter().zip(words) {
        let lanes = &mut word[at..at + LANES];
        // SAFETY: `lanes` has as many bytes as a vector; the store needs no alignment.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), vector) };
    }
}

/// Lanes in which `a` comes after `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn after<const W: usize, const K: usize>(a: &Vector<W>, b: &Vector<W>) -> __mmask8 {
    let (mut found, mut same) = (0, !0);
    for word in 0..K {
        found |= same & _mm512_cmpgt_epu64_mask(a[word], b[word]);
        if word + 1 < K {
            same &= _mm512_cmpeq_epi64_mask(a[word], b[word]);
        }
    }
    found
}

/// Compares the elements of two vectors; `turned` lanes go the other way.
#[inline]
#[target_feature(enable = "avx512f")]
fn between<const W: usize, const K: usize>(a: &mut Vector<W>, b: &mut Vector<W>, turned: __mmask8) {
    let swapped = after::<W, K>(a, b) ^ turned;
    for word in 0..W {
        let (x, y) = (a[word], b[word]);
        a[word] = _mm512_mask_blend_epi64(swapped, x, y);
        b[word] = _mm512_mask_blend_epi64(swapped, y, x);
    }
}

/// Compares elements `DISTANCE` lanes apart within a vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn within<const W: usize, const K: usize, const DISTANCE: usize>(
    vector: &mut Vector<W>,
    turned: __mmask8,
) {
    let lower: __mmask8 = match DISTANCE {
        4 => 0x0F,
        2 => 0x33,
        _ => 0x55,
    };
    let mut partner = *vector;
    for word in &mut partner {
        *word = match DISTANCE {
            4 => _mm512_shuffle_i64x2::<0x4E>(*word, *word),
            2 => _mm512_permutex_epi64::<0x4E>(*word),
            _ => _mm512_permutex_epi64::<0xB1>(*word),
        };
    }
    let wrong = (after::<W, K>(vector, &partner) ^ turned) & lower;
    let swapped = wrong | (wrong << DISTANCE);
    for word in 0..W {
        vector[word] = _mm512_mask_blend_epi64(swapped, vector[word], partner[word]);
    }
}

#[inline]
fn all(turned: bool) -> __mmask8 {
    0u8.wrapping_sub(u8::from(turned))
}

/// Lanes of vector `number` whose elements' places in the block have the bit `turn`, or lack it with `up` false.
#[inline]
fn turns(number: usize, turn: usize, up: bool) -> __mmask8 {
    let lanes = match turn {
        1 => 0xAA,
        2 => 0xCC,
        4 => 0xF0,
        _ => all((number * LANES) & turn != 0),
    };
    lanes ^ all(!up)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn step<const W: usize, const K: usize, const DISTANCE: usize>(
    block: &mut [Vector<W>; VECTORS],
    turn: usize,
    up: bool,
) {
    if DISTANCE >= LANES {
        let apart = DISTANCE / LANES;
        for number in 0..VECTORS {
            if number & apart == 0 {
                let (left, right) = block.split_at_mut(number + apart);
                between::<W, K>(&mut left[number], &mut right[0], turns(number, turn, up));
            }
        }
    } else {
        for (number, vector) in block.iter_mut().enumerate() {
            within::<W, K, DISTANCE>(vector, turns(number, turn, up));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_block<const W: usize>(words: &Words<'_, W>) -> [Vector<W>; VECTORS] {
    let mut block = [[_mm512_setzero_si512(); W]; VECTORS];
    for (number, vector) in block.iter_mut().enumerate() {
        *vector = load(words, number * LANES);
    }
    block
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_block<const W: usize>(words: &mut Words<'_, W>, block: [Vector<W>; VECTORS]) {
    for (number, vector) in block.into_iter().enumerate() {
        store(words, number * LANES, vector);
    }
}

#[target_feature(enable = "avx512f")]
fn sort_block_here<const W: usize, const K: usize>(words: &mut Words<'_, W>, up: bool) {
    let mut block = load_block(words);
    step::<W, K, 1>(&mut block, 2, up);
    step::<W, K, 2>(&mut block, 4, up);
    step::<W, K, 1>(&mut block, 4, up);
    step::<W, K, 4>(&mut block, 8, up);
    step::<W, K, 2>(&mut block, 8, up);
    step::<W, K, 1>(&mut block, 8, up);
    step::<W, K, 8>(&mut block, 16, up);
    step::<W, K, 4>(&mut block, 16, up);
    step::<W, K, 2>(&mut block, 16, up);
    step::<W, K, 1>(&mut block, 16, up);
    step::<W, K, 16>(&mut block, 32, up);
    step::<W, K, 8>(&mut block, 32, up);
    step::<W, K, 4>(&mut block, 32, up);
    step::<W, K, 2>(&mut block, 32, up);
    step::<W, K, 1>(&mut block, 32, up);
    merge_steps::<W, K>(&mut block, up);
    store_block(words, block);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn merge_steps<const W: usize, const K: usize>(block: &mut [Vector<W>; VECTORS], up: bool) {
    step::<W, K, 32>(block, 0, up);
    step::<W, K, 16>(block, 0, up);
    step::<W, K, 8>(block, 0, up);
    step::<W, K, 4>(block, 0, up);
    step::<W, K, 2>(block, 0, up);
    step::<W, K, 1>(block, 0, up);
}

#[target_feature(enable = "avx512f")]
fn merge_block_here<const W: usize, const K: usize>(words: &mut Words<'_, W>, up: bool) {
    let mut block = load_block(words);
    merge_steps::<W, K>(&mut block, up);
    store_block(words, block);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn level<const W: usize, const K: usize, const P: usize, const APART: usize>(
    vectors: &mut [Vector<W>; P],
    turned: __mmask8,
) {
    if APART >= P {
        return;
    }
    for number in 0..P {
        if number & APART == 0 {
            let (lower, upper) = vectors.split_at_mut(number + APART);
            between::<W, K>(&mut lower[number], &mut upper[0], turned);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn exchange_parts_here<const W: usize, const K: usize, const P: usize>(
    parts: &mut [Words<'_, W>; P],
    up: bool,
) {
    let turned = all(!up);
    for at in (0..parts[P - 1][0].len()).step_by(LANES) {
        let mut vectors = [[_mm512_setzero_si512(); W]; P];
        for (vector, part) in vectors.iter_mut().zip(&*parts) {
            *vector = load(part, at);
        }
        // Each with constants, so that all vectors stay in registers.
        level::<W, K, P, 4>(&mut vectors, turned);
        level::<W, K, P, 2>(&mut vectors, turned);
        level::<W, K, P, 1>(&mut vectors, turned);
        for (vector, part) in vectors.into_iter().zip(&mut *parts) {
            store(part, at, vector);
        }
    }
}

pub(crate) fn sort_block<const W: usize, const K: usize>(mut words: Words<'_, W>, up: bool) {
    // SAFETY: the engine was chosen after the processor said that it has AVX-512.
    unsafe { sort_block_here::<W, K>(&mut words, up) }
}

pub(crate) fn merge_block<const W: usize, const K: usize>(mut words: Words<'_, W>, up: bool) {
    // SAFETY: as above.
    unsafe { merge_block_here::<W, K>(&mut words, up) }
}

pub(crate) fn exchange_parts<const W: usize, const K: usize, const P: usize>(
    parts: &mut [Words<'_, W>; P],
    up: bool,
) {
    // SAFETY: as above.
    unsafe { exchange_parts_here::<W, K, P>(parts, up) }
}

#[target_feature(enable = "avx512f")]
fn exchange_from_here(
    left: &mut [u64],
    right: &mut [u64],
    first: u64,
    border: u64,
    turned: u64,
) -> usize {
    let turned = 0u8.wrapping_sub(turned as u8);
    let border = _mm512_set1_epi64(border as i64);
    let next = _mm512_set1_epi64(LANES as i64);
    let mut numbers = _mm512_add_epi64(
        _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7),
        _mm512_set1_epi64(first as i64),
    );
    let (mut left, mut right) = ([left], [right]);
    let whole = left[0].len().min(right[0].len()) / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let swapped = _mm512_cmpge_epu64_mask(numbers, border) ^ turned;
        let ([a], [b]) = (load(&left, at), load(&right, at));
        store(&mut left, at, [_mm512_mask_blend_epi64(swapped, a, b)]);
        store(&mut right, at, [_mm512_mask_blend_epi64(swapped, b, a)]);
        numbers = _mm512_add_epi64(numbers, next);
    }
    whole
}

/// Exchanges words as `compact::exchange_part` says, as many as fill whole vectors; returns their number.
pub(crate) fn exchange_from(
    left: &mut [u64],
    right: &mut [u64],
    first: u64,
    border: u64,
    turned: u64,
) -> usize {
    // SAFETY: as above.
    unsafe { exchange_from_here(left, right, first, border, turned) }
}
