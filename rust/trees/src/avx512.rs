//! Blocks with AVX-512 (F, BW, VBMI). `portable.rs` says what each function does.
//!
//! Everything is looked up in registers: ranks by a search whose thresholds of each level are permuted into place, leaves
//! byte by byte. No branch and no address depends on a row. All functions are called through [`crate::Engine::Avx512`],
//! which exists only where the processor was asked.
use crate::block::{Bits, Bytes, Sums, BITS, NONE, ROWS, WORDS};
use crate::model::Missing;
use crate::planes::{Bounds, Compare, Plane, Set};
use crate::portable::Number;
use crate::shape::{Plan, Scratch};
use core::arch::x86_64::*;

/// A number whose vectors are known.
pub(crate) trait Vectors: Number {
    /// The bytes of a plane, see `portable::rank`.
    fn rank(plane: &Plane, bounds: &Bounds<Self>, values: &[Self; ROWS], out: &mut Bytes);
    /// Adds a tree's values, see `portable::add`. Sums stand in the order of [`Vectors::row`].
    fn add(plan: &Plan, planes: &[Bytes], scratch: &mut Scratch, sums: &mut Sums<Self>);
    /// Which of 64 rows has its sum at this place.
    fn row(place: usize) -> usize;
}

impl Vectors for f32 {
    fn rank(plane: &Plane, bounds: &Bounds<f32>, values: &[f32; ROWS], out: &mut Bytes) {
        // SAFETY: the engine was chosen after the processor said that it has AVX-512 BW and VBMI.
        unsafe {
            if plane.strict {
                rank_single::<_CMP_GT_OQ>(plane, bounds, values, out);
            } else {
                rank_single::<_CMP_GE_OQ>(plane, bounds, values, out);
            }
        }
    }

    fn add(plan: &Plan, planes: &[Bytes], scratch: &mut Scratch, sums: &mut Sums<f32>) {
        // SAFETY: as above.
        unsafe { add_single(plan, planes, scratch, sums) }
    }

    fn row(place: usize) -> usize {
        let (vector, lane, at) = (place / 16, place / 4 % 4, place % 4);
        16 * lane + 4 * vector + at
    }
}

impl Vectors for f64 {
    fn rank(plane: &Plane, bounds: &Bounds<f64>, values: &[f64; ROWS], out: &mut Bytes) {
        // SAFETY: as above.
        unsafe {
            if plane.strict {
                rank_double::<_CMP_GT_OQ>(plane, bounds, values, out);
            } else {
                rank_double::<_CMP_GE_OQ>(plane, bounds, values, out);
            }
        }
    }

    fn add(plan: &Plan, planes: &[Bytes], scratch: &mut Scratch, sums: &mut Sums<f64>) {
        // SAFETY: as above.
        unsafe { add_double(plan, planes, scratch, sums) }
    }

    fn row(place: usize) -> usize {
        let (vector, lane, at) = (place / 8, place / 2 % 4, place % 2);
        16 * lane + 2 * vector + at
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: as many bytes as a vector; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn singles(values: &[f32; 16]) -> __m512 {
    // SAFETY: as many bytes as a vector; the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn doubles(values: &[f64; 8]) -> __m512d {
    // SAFETY: as many bytes as a vector; the load needs no alignment.
    unsafe { _mm512_loadu_pd(values.as_ptr()) }
}

/// The threshold of each lane, from a level's `table` of 16, 32, 64 or 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pick_single(table: &[[f32; 16]], at: __m512i) -> __m512 {
    let two = |pair: usize| {
        _mm512_permutex2var_ps(singles(&table[2 * pair]), at, singles(&table[2 * pair + 1]))
    };
    let high = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
    match table.len() {
        1 => _mm512_permutexvar_ps(at, singles(&table[0])),
        2 => two(0),
        4 => _mm512_mask_blend_ps(high, two(0), two(1)),
        _ => {
            let lower = _mm512_mask_blend_ps(high, two(0), two(1));
            let upper = _mm512_mask_blend_ps(high, two(2), two(3));
            let highest = _mm512_test_epi32_mask(at, _mm512_set1_epi32(64));
            _mm512_mask_blend_ps(highest, lower, upper)
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pick_double(table: &[[f64; 8]], at: __m512i) -> __m512d {
    let two = |pair: usize| {
        _mm512_permutex2var_pd(doubles(&table[2 * pair]), at, doubles(&table[2 * pair + 1]))
    };
    let bit = |bit: i64| _mm512_test_epi64_mask(at, _mm512_set1_epi64(bit));
    let four = |from: usize| _mm512_mask_blend_pd(bit(16), two(from), two(from + 1));
    let eight = |from: usize| _mm512_mask_blend_pd(bit(32), four(from), four(from + 2));
    match table.len() {
        1 => _mm512_permutexvar_pd(at, doubles(&table[0])),
        2 => two(0),
        4 => four(0),
        8 => eight(0),
        _ => _mm512_mask_blend_pd(bit(64), eight(0), eight(4)),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn rank_single<const REACHED: i32>(
    plane: &Plane,
    bounds: &Bounds<f32>,
    values: &[f32; ROWS],
    out: &mut Bytes,
) {
    let (values, _) = values.as_chunks::<16>();
    let (out, _) = out.0.as_flattened_mut().as_chunks_mut::<16>();
    let one = _mm512_set1_epi32(1);
    let nearly = _mm512_set1_ps(f32::NEARLY_ZERO);
    // All ones for the rules that it belongs to.
    let nan_misses = 0u16.wrapping_sub(u16::from(plane.missing != Missing::Never));
    let zero_misses = 0u16.wrapping_sub(u16::from(plane.missing == Missing::Zero));
    let byte = _mm512_set1_epi32(plane.byte.into());
    // Two vectors at a time, for a permutation takes longer than its turn.
    for (two, out) in values.chunks_exact(2).zip(out.chunks_exact_mut(2)) {
        let mut known = [_mm512_setzero_ps(); 2];
        let mut missing = [0u16; 2];
        let mut at = [_mm512_setzero_si512(); 2];
        for side in 0..2 {
            let value = singles(&two[side]);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let zero = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(_mm512_abs_ps(value), nearly);
            missing[side] = (nan & nan_misses) | (zero & zero_misses);
            known[side] = _mm512_maskz_mov_ps(!nan, value);
        }
        for level in &bounds.levels {
            let (table, _) = level.as_chunks::<16>();
            for side in 0..2 {
                let bound = pick_single(table, at[side]);
                let reached = _mm512_cmp_ps_mask::<REACHED>(known[side], bound);
                let twice = _mm512_add_epi32(at[side], at[side]);
                at[side] = _mm512_mask_add_epi32(twice, reached, twice, one);
            }
        }
        for side in 0..2 {
            let rank = _mm512_mask_mov_epi32(at[side], missing[side], byte);
            let rank = _mm512_cvtepi32_epi8(rank);
            // SAFETY: as many bytes as half of a quarter of a vector; the store needs no alignment.
            unsafe { _mm_storeu_si128(out[side].as_mut_ptr().cast(), rank) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn rank_double<const REACHED: i32>(
    plane: &Plane,
    bounds: &Bounds<f64>,
    values: &[f64; ROWS],
    out: &mut Bytes,
) {
    let (values, _) = values.as_chunks::<8>();
    let (out, _) = out.0.as_flattened_mut().as_chunks_mut::<8>();
    let one = _mm512_set1_epi64(1);
    let nearly = _mm512_set1_pd(f64::NEARLY_ZERO);
    let nan_misses = 0u8.wrapping_sub(u8::from(plane.missing != Missing::Never));
    let zero_misses = 0u8.wrapping_sub(u8::from(plane.missing == Missing::Zero));
    let byte = _mm512_set1_epi64(plane.byte.into());
    for (two, out) in values.chunks_exact(2).zip(out.chunks_exact_mut(2)) {
        let mut known = [_mm512_setzero_pd(); 2];
        let mut missing = [0u8; 2];
        let mut at = [_mm512_setzero_si512(); 2];
        for side in 0..2 {
            let value = doubles(&two[side]);
            let nan = _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(value, value);
            let zero = _mm512_cmp_pd_mask::<_CMP_LE_OQ>(_mm512_abs_pd(value), nearly);
            missing[side] = (nan & nan_misses) | (zero & zero_misses);
            known[side] = _mm512_maskz_mov_pd(!nan, value);
        }
        for level in &bounds.levels {
            let (table, _) = level.as_chunks::<8>();
            for side in 0..2 {
                let bound = pick_double(table, at[side]);
                let reached = _mm512_cmp_pd_mask::<REACHED>(known[side], bound);
                let twice = _mm512_add_epi64(at[side], at[side]);
                at[side] = _mm512_mask_add_epi64(twice, reached, twice, one);
            }
        }
        for side in 0..2 {
            let rank = _mm512_mask_mov_epi64(at[side], missing[side], byte);
            let rank = _mm512_cvtepi64_epi8(rank);
            // SAFETY: eight bytes, of which the store writes all; it needs no alignment.
            unsafe { _mm_storel_epi64(out[side].as_mut_ptr().cast(), rank) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn answer(planes: &[Bytes], node: &Compare) -> Bits {
    let bytes = &planes[node.plane as usize].0;
    let bound = _mm512_set1_epi8(node.bound as i8);
    let mut found = NONE;
    for (found, bytes) in found.iter_mut().zip(bytes) {
        *found = _mm512_cmpge_epu8_mask(load(bytes), bound);
    }
    found
}

/// The byte of each row, from a table of 64, 128 or 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pick(table: &[[u8; 64]], at: __m512i) -> __m512i {
    match table.len() {
        1 => _mm512_permutexvar_epi8(at, load(&table[0])),
        2 => _mm512_permutex2var_epi8(load(&table[0]), at, load(&table[1])),
        _ => {
            let lower = _mm512_permutex2var_epi8(load(&table[0]), at, load(&table[1]));
            let upper = _mm512_permutex2var_epi8(load(&table[2]), at, load(&table[3]));
            _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), lower, upper)
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn member(planes: &[Bytes], set: &Set) -> Bits {
    let mut found = NONE;
    for (plane, table) in &set.terms {
        let (table, _) = table.as_chunks::<64>();
        for (found, bytes) in found.iter_mut().zip(&planes[*plane as usize].0) {
            *found |= _mm512_movepi8_mask(pick(table, load(bytes)));
        }
    }
    found
}

/// The numbers of the leaves of 64 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn numbers(bits: &[Bits; BITS], word: usize) -> __m512i {
    let mut found = _mm512_setzero_si512();
    for (place, bits) in bits.iter().enumerate() {
        let value = _mm512_set1_epi8(1i8.wrapping_shl(place as u32));
        found = _mm512_mask_add_epi8(found, bits[word], found, value);
    }
    found
}

/// Numbers from their bytes: those of places 4n to 4n + 3 of each quarter in vector n.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn words_of(bytes: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = bytes;
    let (low_ab, high_ab) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (low_cd, high_cd) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(low_ab, low_cd),
        _mm512_unpackhi_epi16(low_ab, low_cd),
        _mm512_unpacklo_epi16(high_ab, high_cd),
        _mm512_unpackhi_epi16(high_ab, high_cd),
    ]
}

/// The values of the leaves of 64 rows, as four vectors for each four bytes of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn values_of<const PARTS: usize>(
    plan: &Plan,
    scratch: &Scratch,
    output: usize,
    word: usize,
) -> [[__m512i; 4]; PARTS] {
    let mut found = [[_mm512_setzero_si512(); 4]; PARTS];
    let size = 4 * PARTS * plan.entries;
    for group in 0..plan.groups {
        let table = &plan.tables[(output * plan.groups + group) * size..][..size];
        let (tables, _) = table.as_chunks::<64>();
        let each = plan.entries / 64;
        let here = scratch.numbers[group].here[word];
        let at = numbers(&scratch.numbers[group].bits, word);
        for (part, found) in found.iter_mut().enumerate() {
            let mut bytes = [_mm512_setzero_si512(); 4];
            for (byte, bytes) in bytes.iter_mut().enumerate() {
                let table = &tables[(4 * part + byte) * each..][..each];
                *bytes = _mm512_maskz_mov_epi8(here, pick(table, at));
            }
            for (found, value) in found.iter_mut().zip(words_of(bytes)) {
                *found = _mm512_or_si512(*found, value);
            }
        }
    }
    found
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn add_single(plan: &Plan, planes: &[Bytes], scratch: &mut Scratch, sums: &mut Sums<f32>) {
    scratch.find(plan, |node| answer(planes, node), |set| member(planes, set));
    for output in 0..plan.width {
        let (sums, _) = sums.of(plan.output + output).as_chunks_mut::<16>();
        for word in 0..WORDS {
            let [values] = values_of::<1>(plan, scratch, output, word);
            for (sum, value) in sums[4 * word..][..4].iter_mut().zip(values) {
                let added = _mm512_add_ps(singles(sum), _mm512_castsi512_ps(value));
                // SAFETY: as many bytes as a vector; the store needs no alignment.
                unsafe { _mm512_storeu_ps(sum.as_mut_ptr(), added) };
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn add_double(plan: &Plan, planes: &[Bytes], scratch: &mut Scratch, sums: &mut Sums<f64>) {
    scratch.find(plan, |node| answer(planes, node), |set| member(planes, set));
    for output in 0..plan.width {
        let (sums, _) = sums.of(plan.output + output).as_chunks_mut::<8>();
        for word in 0..WORDS {
            let [low, high] = values_of::<2>(plan, scratch, output, word);
            let mut values = [_mm512_setzero_si512(); 8];
            for (pair, (low, high)) in values.chunks_exact_mut(2).zip(low.into_iter().zip(high)) {
                pair[0] = _mm512_unpacklo_epi32(low, high);
                pair[1] = _mm512_unpackhi_epi32(low, high);
            }
            for (sum, value) in sums[8 * word..][..8].iter_mut().zip(values) {
                let added = _mm512_add_pd(doubles(sum), _mm512_castsi512_pd(value));
                // SAFETY: as many bytes as a vector; the store needs no alignment.
                unsafe { _mm512_storeu_pd(sum.as_mut_ptr(), added) };
            }
        }
    }
}
