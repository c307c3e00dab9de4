//! Choices without branches: conditions are words of all ones or all zeros.
use core::hint::black_box;

/// All ones if `bit` is 1, all zeros if it is 0. The compiler may not know which, so that it makes no branch of it.
#[inline(always)]
pub fn mask(bit: u64) -> u64 {
    black_box(0u64.wrapping_sub(bit))
}

/// 1 if `a < b`, else 0.
#[inline(always)]
pub fn less(a: u64, b: u64) -> u64 {
    u64::from(a.overflowing_sub(b).1)
}

/// 1 if `a == b`, else 0.
#[inline(always)]
pub fn equal(a: u64, b: u64) -> u64 {
    let differ = a ^ b;
    1 ^ ((differ | differ.wrapping_neg()) >> 63)
}

/// `yes` where `mask` has ones, `no` elsewhere.
#[inline(always)]
pub fn select(mask: u64, yes: u64, no: u64) -> u64 {
    no ^ (mask & (yes ^ no))
}

/// Exchanges two words where `mask` has ones.
#[inline(always)]
pub fn swap(mask: u64, a: &mut u64, b: &mut u64) {
    let change = mask & (*a ^ *b);
    *a ^= change;
    *b ^= change;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_they_say() {
        let some = [0, 1, 2, 77, 1 << 63, u64::MAX - 1, u64::MAX];
        for a in some {
            for b in some {
                assert_eq!(less(a, b), u64::from(a < b));
                assert_eq!(equal(a, b), u64::from(a == b));
                assert_eq!(select(mask(1), a, b), a);
                assert_eq!(select(mask(0), a, b), b);
                for bit in [0, 1] {
                    let (mut x, mut y) = (a, b);
                    swap(mask(bit), &mut x, &mut y);
                    assert_eq!((x, y), if bit == 1 { (b, a) } else { (a, b) });
                }
            }
        }
    }
}
