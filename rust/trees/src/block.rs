//! Rows of a block: a byte for each row and plane, a bit for each row and node.
#![forbid(unsafe_code)]

/// Words of 64 rows in a block.
pub(crate) const WORDS: usize = 8;
/// Rows of a block.
pub(crate) const ROWS: usize = 64 * WORDS;
/// Leaves that one byte tells apart.
pub(crate) const LEAVES: usize = 256;
/// Bits of the number of a leaf.
pub(crate) const BITS: usize = 8;

/// One byte for each row.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Bytes(pub [[u8; 64]; WORDS]);

impl Bytes {
    pub const ZERO: Self = Self([[0; 64]; WORDS]);
}

/// One bit for each row.
pub(crate) type Bits = [u64; WORDS];
pub(crate) const NONE: Bits = [0; WORDS];
pub(crate) const ALL: Bits = [!0; WORDS];

/// `right` where `chosen` has ones, `left` elsewhere.
#[inline(always)]
pub(crate) fn choose(chosen: &Bits, left: &Bits, right: &Bits) -> Bits {
    std::array::from_fn(|word| left[word] ^ (chosen[word] & (left[word] ^ right[word])))
}

/// The sums of a block: for each output those of all rows.
pub(crate) struct Sums<T> {
    pub values: Vec<T>,
}

impl<T: Copy> Sums<T> {
    pub fn new(base: &[T]) -> Self {
        let mut sums = Self { values: Vec::new() };
        sums.begin(base);
        sums
    }

    pub fn begin(&mut self, base: &[T]) {
        self.values.clear();
        for value in base {
            self.values.extend(std::iter::repeat_n(*value, ROWS));
        }
    }

    #[inline]
    pub fn of(&mut self, output: usize) -> &mut [T] {
        &mut self.values[output * ROWS..(output + 1) * ROWS]
    }
}
