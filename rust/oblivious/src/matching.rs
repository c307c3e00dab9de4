//! Which rows of several parties have the same key, without a trace of which.
//!
//! 1. Each row gets a 128-bit tag of its key.
//! 2. The rows of all parties are sorted by tag, party and row, so that equal keys are neighbours.
//! 3. Two scans tell every row which parties have its key, and which row of the first party is the first with it.
//! 4. A second sort, by party and row, brings the answers back to where the rows came from.
use crate::choose::{equal, mask, select};
use crate::network::{both, sort, Engine, BLOCK};
use crate::Arrays;
use core::hash::Hasher;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Most parties that can meet.
pub const PARTIES: usize = 32;
/// Most rows of one party.
pub const ROWS: usize = 1 << 36;

/// Where the party stands in the word that says where a row came from; the row is below it, and whether it takes part in
/// the lowest bit.
const PARTY_SHIFT: u32 = 56;
/// Rows fewer than these are not worth a thread of their own.
const THREAD: usize = 1 << 14;

/// One party's rows.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// The keys, one after the other, each of the same number of words.
    pub keys: &'a [u64],
    /// 1 for each row that takes part, 0 for one that matches nothing (a key that is missing).
    pub valid: &'a [u8],
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those whose key all parties have.
    Common,
    /// Those whose key no other party than the first has.
    OnlyFirst,
}

/// What was found. Marks are one byte for each row, 0 or 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// For each party and row: whether it is wanted.
    pub wanted: Vec<Vec<u8>>,
    /// For each row of the first party: whether it is wanted and no earlier row has its key.
    pub first: Vec<u8>,
    /// Different keys of each party.
    pub distinct: Vec<u64>,
    /// Different keys that are wanted.
    pub keys: u64,
    /// Different keys that anybody has.
    pub union: u64,
}

/// Finds the rows that are wanted. `width` is the words of a key, `secret` a fresh key of the tags.
///
/// # Panics
///
/// If there are more than [`PARTIES`], a party has more than [`ROWS`], keys and marks differ in number, or a mark is
/// neither 0 nor 1.
pub fn find(
    parties: &[Party<'_>],
    width: usize,
    secret: &[u8; 16],
    wanted: Wanted,
    engine: Engine,
    threads: usize,
) -> Matched {
    assert!(parties.len() <= PARTIES, "too many parties");
    let rows: usize = parties.iter().map(|party| party.valid.len()).sum();
    let size = rows.next_multiple_of(BLOCK);
    let mut arrays = Arrays::<3>::new(size);
    let [high, low, place] = arrays.words();
    let mut rest = [&mut *high, &mut *low, &mut *place];
    for (number, party) in parties.iter().enumerate() {
        assert!(party.valid.len() <= ROWS, "too many rows");
        assert!(
            party.keys.len() == width * party.valid.len(),
            "keys and marks of different number"
        );
        assert!(
            party.valid.iter().fold(0, |all, mark| all | mark) <= 1,
            "a mark is 0 or 1"
        );
        let (mine, others) = split(rest, party.valid.len());
        rest = others;
        let rows = Tagged {
            party: *party,
            first: 0,
            words: mine,
        };
        rows.fill(width, secret, number, threads);
    }
    // Of nobody, and without a part.
    let [rest_high, rest_low, rest_place] = rest;
    rest_high.fill(u64::MAX);
    rest_low.fill(u64::MAX);
    rest_place.fill((parties.len() as u64) << PARTY_SHIFT);
    sort::<3, 3>([&mut *high, &mut *low, &mut *place], engine, threads);

    let (distinct, keys, union) = answer(high, low, place, wanted, parties.len());
    sort::<1, 1>([&mut *place], engine, threads);

    let mut rest = &place[..];
    let mut found = Matched {
        wanted: Vec::new(),
        first: Vec::new(),
        distinct,
        keys,
        union,
    };
    for (number, party) in parties.iter().enumerate() {
        let (mine, others) = rest.split_at(party.valid.len());
        rest = others;
        found
            .wanted
            .push(mine.iter().map(|word| (word & 1) as u8).collect());
        if number == 0 {
            found.first = mine.iter().map(|word| (word >> 1 & 1) as u8).collect();
        }
    }
    found
}

/// The first `middle` elements, and the others.
fn split(words: [&mut [u64]; 3], middle: usize) -> ([&mut [u64]; 3], [&mut [u64]; 3]) {
    let [(a, x), (b, y), (c, z)] = words.map(|word| word.split_at_mut(middle));
    ([a, b, c], [x, y, z])
}

/// Rows of one party from `first` on, and where their elements go: both halves of the tag, and where the row came from.
struct Tagged<'a, 'b> {
    party: Party<'a>,
    first: usize,
    words: [&'b mut [u64]; 3],
}

impl Tagged<'_, '_> {
    fn fill(self, width: usize, secret: &[u8; 16], number: usize, threads: usize) {
        let size = self.words[0].len();
        if threads > 1 && size >= THREAD {
            let (words, words_end) = split(self.words, size / 2);
            let (party, first) = (self.party, self.first);
            let one = Tagged {
                party,
                first,
                words,
            };
            let two = Tagged {
                party,
                first: first + size / 2,
                words: words_end,
            };
            return both(
                true,
                || one.fill(width, secret, number, threads.div_ceil(2)),
                || two.fill(width, secret, number, threads / 2),
            );
        }
        let [high, low, place] = self.words;
        for (index, ((high, low), place)) in high.iter_mut().zip(low).zip(place).enumerate() {
            let row = self.first + index;
            (*high, *low) = tag(&self.party.keys[row * width..(row + 1) * width], secret);
            *place = (number as u64) << PARTY_SHIFT
                | (row as u64) << 1
                | u64::from(self.party.valid[row]);
        }
    }
}

/// SipHash-2-4-128: a pseudorandom function, so parties who choose keys cannot choose tags.
#[inline]
fn tag(key: &[u64], secret: &[u8; 16]) -> (u64, u64) {
    let mut hasher = SipHasher24::new_with_key(secret);
    for word in key {
        hasher.write_u64(*word);
    }
    hasher.finish128().as_u64()
}

/// Scans forth and back over rows that are sorted by tag, party and row. Afterwards `place` has party and row, and in its
/// lowest bits whether the row is the first of its key and whether it is wanted. Returns the numbers of keys: of each party,
/// wanted, and all.
fn answer(
    high: &[u64],
    low: &[u64],
    place: &mut [u64],
    wanted: Wanted,
    number: usize,
) -> (Vec<u64>, u64, u64) {
    let everybody = (1u64 << number) - 1;
    let mut distinct = vec![0u64; number];
    let size = place.len();
    // What the way back needs: who has the key, as far as was seen, and on top whether that is the party's first row.
    let mut seen = vec![0u64; size];
    let (mut parties, mut before) = (0u64, [0u64; 2]);
    for (index, seen) in seen.iter_mut().enumerate() {
        let same = mask(equal(high[index], before[0]) & equal(low[index], before[1]));
        before = [high[index], low[index]];
        let party = place[index] >> PARTY_SHIFT;
        let valid = mask(place[index] & 1);
        let new = (1u64 << (party & 63)) & valid & !(parties & same);
        parties = (parties & same) | new;
        for (bit, count) in distinct.iter_mut().enumerate() {
            *count += new >> bit & 1;
        }
        *seen = parties | new << 63;
    }
    let (mut keys, mut union) = (0, 0);
    let mut end = 1;
    for index in (0..size).rev() {
        // The last row of a key knows; the others learn it from the one after them.
        parties = select(mask(end), seen[index] & !(1 << 63), parties);
        let chosen = match wanted {
            Wanted::Common => equal(parties, everybody),
            Wanted::OnlyFirst => equal(parties, 1),
        };
        union += end & (1 ^ equal(parties, 0));
        keys += end & chosen;
        let takes_part = place[index] & 1;
        let is_first = seen[index] >> 63 & chosen & takes_part;
        let party = place[index] >> PARTY_SHIFT;
        let row = (place[index] & ((1 << PARTY_SHIFT) - 1)) >> 1;
        place[index] = party << PARTY_SHIFT | row << 2 | is_first << 1 | (chosen & takes_part);
        end = match index {
            0 => 1,
            _ => 1 ^ (equal(high[index], high[index - 1]) & equal(low[index], low[index - 1])),
        };
    }
    (distinct, keys, union)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn expected(parties: &[(Vec<u64>, Vec<u8>)], wanted: Wanted) -> Matched {
        let mut who: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        for (number, (keys, valid)) in parties.iter().enumerate() {
            for (key, valid) in keys.iter().zip(valid) {
                if *valid == 1 {
                    who.entry(*key).or_default().insert(number);
                }
            }
        }
        let chosen = |key: &u64| match wanted {
            Wanted::Common => who
                .get(key)
                .is_some_and(|found| found.len() == parties.len()),
            Wanted::OnlyFirst => who
                .get(key)
                .is_some_and(|found| found.len() == 1 && found.contains(&0)),
        };
        let mut already = BTreeSet::new();
        Matched {
            wanted: parties
                .iter()
                .map(|(keys, valid)| {
                    keys.iter()
                        .zip(valid)
                        .map(|(key, valid)| valid & u8::from(chosen(key)))
                        .collect()
                })
                .collect(),
            first: parties[0]
                .0
                .iter()
                .zip(&parties[0].1)
                .map(|(key, valid)| {
                    valid & u8::from(*valid == 1 && chosen(key) && already.insert(*key))
                })
                .collect(),
            distinct: (0..parties.len())
                .map(|number| who.values().filter(|found| found.contains(&number)).count() as u64)
                .collect(),
            keys: who.keys().filter(|key| chosen(key)).count() as u64,
            union: who.len() as u64,
        }
    }

    fn check(parties: &[(Vec<u64>, Vec<u8>)]) {
        let given: Vec<Party<'_>> = parties
            .iter()
            .map(|(keys, valid)| Party { keys, valid })
            .collect();
        for wanted in [Wanted::Common, Wanted::OnlyFirst] {
            for engine in [Engine::Portable, Engine::best()] {
                assert_eq!(
                    find(&given, 1, &[7; 16], wanted, engine, 2),
                    expected(parties, wanted)
                );
            }
        }
    }

    #[test]
    fn rows_of_several_parties() {
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for parties in 1..=5 {
            for rows in [0, 1, 2, 5, 64, 200, 1000] {
                for below in [1, 3, 50, 1_000_000] {
                    let given: Vec<_> = (0..parties)
                        .map(|_| {
                            let size = next(rows + 1);
                            let keys = (0..size).map(|_| next(below)).collect::<Vec<_>>();
                            let valid = (0..size)
                                .map(|_| u8::from(next(10) > 0))
                                .collect::<Vec<_>>();
                            (keys, valid)
                        })
                        .collect();
                    check(&given);
                }
            }
        }
    }
}
