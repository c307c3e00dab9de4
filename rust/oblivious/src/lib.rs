//! Kernels whose instructions and memory accesses depend on sizes only, never on the values.
//!
//! A processor that runs them shows an onlooker (page tables, caches, single steps) how many rows there are and how wide
//! they are, and nothing of what is in them. They are built from two things: compare-exchange of elements at places that
//! the size alone decides, and scans that look at every element once. Each exists twice, portable and with AVX-512; both
//! give the same result.
//!
//! * [`sort`]: a bitonic network for any multiple of [`BLOCK`] elements.
//! * [`compact`]: moves marked rows to the front, in their order (ORCompact: Sasy, Johnson, Goldberg, CCS 2022).
//! * [`matching`]: which rows of several parties have the same key.
//! * [`sets`]: the keys that all parties have, or the first alone, without their rows: one sort for keys of few words.
//! * [`external`]: the same for more rows than fit into memory.
//! * [`rows`]: keys of several columns as rows of words, that can be matched, compacted and sorted.
//!
//! What is not hidden: the sizes, and what an output says. Tags are SipHash-2-4 with 128 bits under a key of the run: two
//! different keys share a tag with a probability of 2^-128 each.
#![deny(unsafe_code)]

mod arrays;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod choose;
pub mod compact;
pub mod external;
pub mod matching;
mod network;
mod portable;
pub mod rows;
pub mod sets;

pub use arrays::Arrays;
pub use network::{sort, Engine, BLOCK};
