//! The keys that all parties have, or the first alone, without saying which rows they stood in.
//!
//! Keys of few words are sorted themselves, each with its party in a word behind (or in the upper part of a word that a
//! length leaves free): equal keys become neighbours, one scan counts them and marks the last of each wanted key, and
//! compaction leaves the wanted keys in ascending order. Wider keys go by their tags, as in [`matching`](crate::matching),
//! and the rows that were found are sorted by value.
use crate::choose::{equal, mask};
use crate::compact::{any_size, preceding, How};
use crate::matching::{Wanted, PARTIES};
use crate::network::{sort, Engine, BLOCK};
use crate::rows::{matched, Rows, Unfit};
use crate::Arrays;
use core::ops::Range;

/// What the last word of an element has below the key: party and whether the row takes part.
pub(crate) const BELOW: u32 = 6;
const _: () = assert!(PARTIES << 1 == 1 << BELOW);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sets {
    /// The wanted keys, in ascending order, each once; none if they were not asked for.
    pub keys: Option<Rows>,
    /// Different keys of each party.
    pub distinct: Vec<u64>,
    /// Different keys that are wanted.
    pub wanted: u64,
    /// Different keys that anybody has.
    pub union: u64,
}

/// The wanted keys of all parties' rows, if `listed`, and how many there are. `secret` is a fresh key for tags.
///
/// # Errors
///
/// [`Unfit::Parties`] for rows of different widths, and too many of them or of parties.
pub fn combined(
    parties: &[&Rows],
    secret: &[u8; 16],
    wanted: Wanted,
    listed: bool,
    engine: Engine,
    threads: usize,
) -> Result<Sets, Unfit> {
    let shape = Shape::of(parties)?;
    let by = By {
        wanted,
        listed,
        engine,
        threads,
    };
    Ok(match (shape.width, shape.room) {
        (1, false) => direct::<2, 1>(parties, shape, by),
        (2, true) => direct::<2, 2>(parties, shape, by),
        // From here on it takes longer than tags and a second sort.
        _ => {
            let found = matched(parties, secret, wanted, engine, threads)?;
            let keys = match (listed, parties.first()) {
                (true, Some(first)) => Some(
                    first
                        .marked(&found.first, engine, threads)?
                        .sorted(engine, threads),
                ),
                _ => None,
            };
            Sets {
                keys,
                distinct: found.distinct,
                wanted: found.keys,
                union: found.union,
            }
        }
    })
}

/// Width of all parties' rows, and whether their last word has room for the party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) width: usize,
    pub(crate) room: bool,
}

impl Shape {
    pub(crate) fn of(parties: &[&Rows]) -> Result<Self, Unfit> {
        let first = parties.first().ok_or(Unfit::Parties)?;
        let shape = Self {
            width: first.width,
            room: first.room,
        };
        let fit = parties
            .iter()
            .all(|rows| rows.width == shape.width && rows.room == shape.room);
        if !fit || parties.len() > PARTIES {
            return Err(Unfit::Parties);
        }
        Ok(shape)
    }
}

#[derive(Clone, Copy)]
struct By {
    wanted: Wanted,
    listed: bool,
    engine: Engine,
    threads: usize,
}

/// Writes the elements of some of one party's rows, from `begin` on. An element that takes no part matches nothing wherever it stands.
pub(crate) fn fill<const W: usize>(
    words: &mut [&mut [u64]; W],
    begin: usize,
    rows: &Rows,
    range: Range<usize>,
    party: usize,
) {
    let size = range.len();
    let (last, others) = words.split_last_mut().expect("elements have words");
    for (row, (place, valid)) in last[begin..begin + size]
        .iter_mut()
        .zip(&rows.valid[range.clone()])
        .enumerate()
    {
        let length = if rows.room {
            rows.words[(range.start + row + 1) * rows.width - 1]
        } else {
            0
        };
        *place = length << BELOW | (party as u64) << 1 | u64::from(*valid);
    }
    for (number, word) in others.iter_mut().enumerate() {
        let given = rows.words.chunks_exact(rows.width).skip(range.start);
        for (to, row) in word[begin..begin + size].iter_mut().zip(given) {
            *to = row[number];
        }
    }
}

/// `K` words are the network's key.
fn direct<const W: usize, const K: usize>(parties: &[&Rows], shape: Shape, by: By) -> Sets {
    let rows: usize = parties.iter().map(|party| party.len()).sum();
    let size = rows.next_multiple_of(BLOCK);
    let mut arrays = Arrays::<W>::new(size);
    let mut words = arrays.words();
    let mut begin = 0;
    for (number, party) in parties.iter().enumerate() {
        fill(&mut words, begin, party, 0..party.len(), number);
        begin += party.len();
    }
    for (number, word) in words.iter_mut().enumerate() {
        // Takes no part in anything, as the lowest bit of the last word says, and divides no key from its like.
        word[begin..].fill(if number + 1 < W { u64::MAX } else { 0 });
    }
    sort::<W, K>(
        words.each_mut().map(|word| &mut **word),
        by.engine,
        by.threads,
    );

    let mut scan = Scan::new(parties.len(), by.wanted);
    let mut marks = vec![0; size];
    scan.mark(words.each_ref().map(|word| &**word), None, &mut marks);
    let keys = by
        .listed
        .then(|| taken(words, &marks, shape, by.engine, by.threads));
    Sets {
        keys,
        distinct: scan.distinct,
        wanted: scan.wanted,
        union: scan.union,
    }
}

/// The marked elements as rows of a shape.
fn taken<const W: usize>(
    mut words: [&mut [u64]; W],
    marks: &[u8],
    shape: Shape,
    engine: Engine,
    threads: usize,
) -> Rows {
    let before = preceding(marks);
    let count = before[marks.len()] as usize;
    let how = How {
        width: 1,
        engine,
        threads,
    };
    for word in words.iter_mut().take(shape.width) {
        any_size(word, &before, how);
    }
    listed(words, count, shape)
}

/// The first elements as rows.
pub(crate) fn listed<const W: usize>(
    words: [&mut [u64]; W],
    count: usize,
    Shape { width, room }: Shape,
) -> Rows {
    let mut rows = vec![0; count * width];
    for (number, word) in words.iter().take(width).enumerate() {
        let below = if room && number + 1 == width {
            BELOW
        } else {
            0
        };
        let given = word[..count].iter();
        for (row, from) in rows.chunks_exact_mut(width).zip(given) {
            row[number] = from >> below;
        }
    }
    Rows {
        width,
        room,
        words: rows,
        valid: vec![1; count],
    }
}

/// Goes once over sorted elements, piece by piece.
#[derive(Debug)]
pub(crate) struct Scan {
    asked: Wanted,
    everybody: u64,
    /// Who has the key at which the scan is, as far as was seen.
    parties: u64,
    pub(crate) distinct: Vec<u64>,
    pub(crate) wanted: u64,
    pub(crate) union: u64,
}

impl Scan {
    pub(crate) fn new(parties: usize, asked: Wanted) -> Self {
        Self {
            asked,
            everybody: (1 << parties) - 1,
            parties: 0,
            distinct: vec![0; parties],
            wanted: 0,
            union: 0,
        }
    }

    /// Marks the last element of each wanted key; `next` is the first element behind, if there is one.
    pub(crate) fn mark<const W: usize>(
        &mut self,
        words: [&[u64]; W],
        next: Option<[u64; W]>,
        marks: &mut [u8],
    ) {
        let size = words[0].len();
        if size == 0 {
            return;
        }
        let at = |index: usize| words.each_ref().map(|word| word[index]);
        for (index, mark) in marks[..size - 1].iter_mut().enumerate() {
            *mark = self.one(at(index), same(at(index), at(index + 1))) as u8;
        }
        let goes_on = next.map_or(0, |next| same(at(size - 1), next));
        marks[size - 1] = self.one(at(size - 1), goes_on) as u8;
    }

    /// 1 if the element is the last of a wanted key; `goes_on` is 1 if the next one has the same key.
    #[inline(always)]
    fn one<const W: usize>(&mut self, element: [u64; W], goes_on: u64) -> u64 {
        let place = element[W - 1];
        self.parties |= (place & 1) << (place >> 1 & (PARTIES as u64 - 1));
        let end = 1 ^ goes_on;
        let chosen = end
            & match self.asked {
                Wanted::Common => equal(self.parties, self.everybody),
                Wanted::OnlyFirst => equal(self.parties, 1),
            };
        for (party, count) in self.distinct.iter_mut().enumerate() {
            *count += end & self.parties >> party;
        }
        self.wanted += chosen;
        self.union += end & (1 ^ equal(self.parties, 0));
        self.parties &= mask(goes_on);
        chosen
    }
}

/// 1 if two elements have one key.
#[inline(always)]
fn same<const W: usize>(a: [u64; W], b: [u64; W]) -> u64 {
    let mut differ = (a[W - 1] ^ b[W - 1]) >> BELOW;
    for word in 0..W - 1 {
        differ |= a[word] ^ b[word];
    }
    equal(differ, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Column;

    fn noise(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    /// A column of numbers, one of text with `words` words, or both.
    fn rows(numbers: bool, words: usize, keys: &[u64], valid: Vec<u8>) -> Rows {
        let ints: Vec<u8> = keys
            .iter()
            // From the largest one down, where what fills up a block stands, and around the end.
            .flat_map(|key| (i64::MAX - 2).wrapping_add(*key as i64).to_le_bytes())
            .collect();
        let (mut data, mut offsets) = (Vec::new(), 0u64.to_le_bytes().to_vec());
        for key in keys {
            data.extend(
                format!(
                    "{key}{}",
                    "x".repeat(*key as usize % (8 * words.max(1) - 3))
                )
                .bytes(),
            );
            offsets.extend((data.len() as u64).to_le_bytes());
        }
        let mut columns = Vec::new();
        if numbers {
            columns.push(Column::Int(&ints));
        }
        if words > 0 {
            columns.push(Column::Text(&data, &offsets, words));
        }
        Rows::new(&columns, valid).unwrap()
    }

    #[test]
    fn both_ways_find_the_same() {
        let mut next = noise(3);
        for (numbers, words) in [
            (true, 0),
            (false, 1),
            (true, 1),
            (false, 2),
            (true, 2),
            (false, 3),
        ] {
            for parties in 1..=4 {
                for most in [1, 2, 60, 400] {
                    let given: Vec<Rows> = (0..parties)
                        .map(|_| {
                            let keys: Vec<u64> =
                                (0..next(most)).map(|_| next(most / 2 + 1)).collect();
                            let valid = keys.iter().map(|_| u8::from(next(9) > 0)).collect();
                            rows(numbers, words, &keys, valid)
                        })
                        .collect();
                    check(&given.iter().collect::<Vec<_>>());
                }
            }
        }
    }

    fn check(given: &[&Rows]) {
        for wanted in [Wanted::Common, Wanted::OnlyFirst] {
            let tagged = matched(given, &[9; 16], wanted, Engine::best(), 2).unwrap();
            let expected = given[0]
                .marked(&tagged.first, Engine::best(), 1)
                .unwrap()
                .sorted(Engine::best(), 1);
            for engine in [Engine::Portable, Engine::best()] {
                let found = combined(given, &[7; 16], wanted, true, engine, 2).unwrap();
                assert_eq!(found.keys.as_ref(), Some(&expected));
                assert_eq!(found.distinct, tagged.distinct);
                assert_eq!((found.wanted, found.union), (tagged.keys, tagged.union));
                let counted = combined(given, &[7; 16], wanted, false, engine, 1).unwrap();
                assert_eq!(
                    counted,
                    Sets {
                        keys: None,
                        ..found
                    }
                );
            }
        }
    }

    #[test]
    fn parties_of_different_shapes_do_not_meet() {
        let (one, two) = (rows(true, 0, &[1], vec![1]), rows(false, 1, &[1], vec![1]));
        for given in [&[&one, &two][..], &[], &[&one; PARTIES + 1]] {
            let found = combined(given, &[0; 16], Wanted::Common, true, Engine::best(), 1);
            assert_eq!(found.map(|_| ()), Err(Unfit::Parties));
        }
    }
}
