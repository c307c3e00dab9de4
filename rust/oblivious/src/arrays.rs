//! Memory for elements of several words, laid out for the network.

/// Words of a cache line.
const LINE: usize = 8;
/// Words by which the arrays of an element's words are apart beside their length: half a page, so that elements at distances
/// of a power of two do not all fall into the same few sets of the caches.
const APART: usize = 256;

/// The arrays of the words of some elements: each begins with a cache line.
#[derive(Debug)]
pub struct Arrays<const W: usize> {
    memory: Vec<u64>,
    start: usize,
    size: usize,
}

impl<const W: usize> Arrays<W> {
    /// All zeros.
    pub fn new(size: usize) -> Self {
        let memory = vec![0; W * (size.next_multiple_of(LINE) + APART) + LINE];
        let start = memory.as_ptr().align_offset(LINE * size_of::<u64>());
        Self {
            // Where no address can be had, the start of the memory is as good, and slower.
            start: if start < LINE { start } else { 0 },
            memory,
            size,
        }
    }

    /// One array for each word.
    pub fn words(&mut self) -> [&mut [u64]; W] {
        let apart = self.size.next_multiple_of(LINE) + APART;
        let mut pieces = self.memory[self.start..].chunks_exact_mut(apart);
        std::array::from_fn(|_| {
            let piece = pieces.next().unwrap_or_default();
            &mut piece[..self.size]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_begin_with_lines_and_share_nothing() {
        for size in [0, 1, 8, 64, 1000] {
            let mut arrays = Arrays::<3>::new(size);
            for (number, word) in arrays.words().into_iter().enumerate() {
                assert_eq!(word.len(), size);
                assert_eq!(word.as_ptr().align_offset(64), 0);
                word.fill(number as u64 + 1);
            }
            let words = arrays.words();
            for (number, word) in words.iter().enumerate() {
                assert!(word.iter().all(|found| *found == number as u64 + 1));
            }
        }
    }
}
