//! Keys of one or several columns as rows of words, all of one width.
//!
//! Rows compare as their values do, word by word: integers have their sign bit turned, text is packed with its first byte
//! on top, padded with zeros, and followed by its length. Reading text into rows and out of them follows its lengths, which
//! are no secret to whoever sees the file being read; everything in between does not.
use crate::compact::compact;
use crate::matching::{find, Matched, Party, Wanted};
use crate::network::{sort, Engine, BLOCK};
use crate::Arrays;
use core::fmt;

/// Most words of a row.
pub const WIDTH: usize = 32;
const SIGN: u64 = 1 << 63;
const BYTES: usize = 8;

/// Why columns make no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Columns, or marks, of different numbers of rows.
    Lengths,
    /// Offsets that go back, or beyond the text.
    Offsets,
    /// A text that is longer than its column allows.
    TooLong,
    /// More than [`WIDTH`] words, or none.
    TooWide,
    /// Parties with rows of different widths, too many parties, or too many rows.
    Parties,
}

impl fmt::Display for Unfit {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Lengths => "columns of different lengths",
            Self::Offsets => "offsets that are none",
            Self::TooLong => "a text that is longer than its column allows",
            Self::TooWide => "keys have 1 to 32 words of 8 bytes",
            Self::Parties => "parties whose keys differ in width, or too many of them",
        })
    }
}

/// One column of a key.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// Signed integers of 64 bits, little-endian.
    Int(&'a [u8]),
    /// UTF-8 or any bytes: the bytes of all values, where each begins and the last one ends (64 bits, little-endian), and
    /// how many words a value may fill.
    Text(&'a [u8], &'a [u8], usize),
}

impl Column<'_> {
    fn words(&self) -> usize {
        match self {
            Self::Int(_) => 1,
            // Its length has one of its own.
            Self::Text(_, _, words) => words + 1,
        }
    }
}

/// Rows of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub(crate) width: usize,
    /// Whether the last word is a length, so that its upper bits are free.
    pub(crate) room: bool,
    pub(crate) words: Vec<u64>,
    pub(crate) valid: Vec<u8>,
}

fn little(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = bytes.as_chunks::<BYTES>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

impl Rows {
    /// Rows of these columns. `valid` has 1 for each row that takes part and 0 for one with a missing value.
    pub fn new(columns: &[Column<'_>], valid: Vec<u8>) -> Result<Self, Unfit> {
        let width: usize = columns.iter().map(Column::words).sum();
        let size = valid.len();
        if width == 0 || width > WIDTH {
            return Err(Unfit::TooWide);
        }
        if valid.iter().any(|mark| *mark > 1) {
            return Err(Unfit::Lengths);
        }
        let mut words = vec![0; width * size];
        let mut at = 0;
        for column in columns {
            match column {
                Column::Int(values) => {
                    if values.len() != size * BYTES {
                        return Err(Unfit::Lengths);
                    }
                    for (row, value) in words.chunks_exact_mut(width).zip(little(values)) {
                        row[at] = value ^ SIGN;
                    }
                }
                Column::Text(data, offsets, most) => {
                    if offsets.len() != (size + 1) * BYTES {
                        return Err(Unfit::Lengths);
                    }
                    let mut ends = little(offsets);
                    let mut begin = ends.next().ok_or(Unfit::Lengths)? as usize;
                    for (row, end) in words.chunks_exact_mut(width).zip(ends) {
                        let text = data.get(begin..end as usize).ok_or(Unfit::Offsets)?;
                        if text.len() > most * BYTES {
                            return Err(Unfit::TooLong);
                        }
                        for (word, piece) in row[at..].iter_mut().zip(text.chunks(BYTES)) {
                            let packed = piece
                                .iter()
                                .fold(0, |word, byte| word << 8 | u64::from(*byte));
                            *word = packed << (8 * (BYTES - piece.len()));
                        }
                        row[at + most] = text.len() as u64;
                        begin = end as usize;
                    }
                }
            }
            at += column.words();
        }
        Ok(Self {
            width,
            room: matches!(columns.last(), Some(Column::Text(..))),
            words,
            valid,
        })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.valid.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.valid.is_empty()
    }

    /// The column of integers whose word stands at `at`, as they were given.
    pub fn int(&self, at: usize) -> Vec<u8> {
        self.words
            .chunks_exact(self.width)
            .flat_map(|row| (row[at] ^ SIGN).to_le_bytes())
            .collect()
    }

    /// The column of text that begins at word `at` and may fill `most` words: its bytes, and where each value begins and
    /// the last one ends.
    pub fn text(&self, at: usize, most: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut data, mut offsets) = (Vec::new(), 0u64.to_le_bytes().to_vec());
        for row in self.words.chunks_exact(self.width) {
            let packed = row[at..at + most]
                .iter()
                .flat_map(|word| word.to_be_bytes());
            data.extend(packed.take(row[at + most] as usize));
            offsets.extend((data.len() as u64).to_le_bytes());
        }
        (data, offsets)
    }

    /// The rows whose mark is 1, in their order.
    pub fn marked(&self, marks: &[u8], engine: Engine, threads: usize) -> Result<Self, Unfit> {
        if marks.len() != self.len() || marks.iter().any(|mark| *mark > 1) {
            return Err(Unfit::Lengths);
        }
        let mut words = self.words.clone();
        let count = compact(&mut words, self.width, marks, engine, threads);
        words.truncate(count * self.width);
        Ok(Self {
            width: self.width,
            room: self.room,
            words,
            valid: vec![1; count],
        })
    }

    /// The rows in ascending order of their values.
    pub fn sorted(&self, engine: Engine, threads: usize) -> Self {
        let mut found = self.clone();
        match self.width {
            1 => found.sort_as::<1>(engine, threads),
            2 => found.sort_as::<2>(engine, threads),
            3..=4 => found.sort_as::<4>(engine, threads),
            5..=8 => found.sort_as::<8>(engine, threads),
            9..=16 => found.sort_as::<16>(engine, threads),
            _ => found.sort_as::<WIDTH>(engine, threads),
        }
        found
    }

    fn sort_as<const W: usize>(&mut self, engine: Engine, threads: usize) {
        let size = self.len().next_multiple_of(BLOCK);
        let mut arrays = Arrays::<W>::new(size);
        let mut words = arrays.words();
        for (number, word) in words.iter_mut().enumerate() {
            for (to, row) in word.iter_mut().zip(self.words.chunks_exact(self.width)) {
                *to = row.get(number).copied().unwrap_or(0);
            }
            // Behind all rows; one that has the same words is as good.
            word[self.valid.len()..].fill(u64::MAX);
        }
        sort::<W, W>(words.each_mut().map(|word| &mut **word), engine, threads);
        for (index, row) in self.words.chunks_exact_mut(self.width).enumerate() {
            for (word, array) in row.iter_mut().zip(&words) {
                *word = array[index];
            }
        }
    }
}

/// Which rows of all parties are wanted. See [`matching`](crate::matching).
pub fn matched(
    parties: &[&Rows],
    secret: &[u8; 16],
    wanted: Wanted,
    engine: Engine,
    threads: usize,
) -> Result<Matched, Unfit> {
    let width = parties.first().map_or(0, |rows| rows.width);
    let fit = parties
        .iter()
        .all(|rows| rows.width == width && rows.len() <= crate::matching::ROWS);
    if width == 0 || !fit || parties.len() > crate::matching::PARTIES {
        return Err(Unfit::Parties);
    }
    let given: Vec<Party<'_>> = parties
        .iter()
        .map(|rows| Party {
            keys: &rows.words,
            valid: &rows.valid,
        })
        .collect();
    Ok(find(&given, width, secret, wanted, engine, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(values: &[i64]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn texts(values: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let mut offsets = vec![0];
        let mut data = Vec::new();
        for value in values {
            data.extend_from_slice(value.as_bytes());
            offsets.push(data.len() as i64);
        }
        (data, ints(&offsets))
    }

    #[test]
    fn what_went_in_comes_out_sorted() {
        let numbers = [5, i64::MIN, -1, i64::MAX, 0, 5, 5];
        let words = [
            "b",
            "",
            "a\0",
            "a",
            "a longer text than one word",
            "b",
            "aa",
        ];
        let (data, offsets) = texts(&words);
        let rows = Rows::new(
            &[
                Column::Int(&ints(&numbers)),
                Column::Text(&data, &offsets, 4),
            ],
            vec![1; 7],
        )
        .unwrap();
        assert_eq!(rows.int(0), ints(&numbers));
        assert_eq!(rows.text(1, 4), (data, offsets));
        let mut expected: Vec<_> = numbers.into_iter().zip(words).collect();
        expected.sort_unstable();
        for engine in [Engine::Portable, Engine::best()] {
            let sorted = rows.sorted(engine, 1);
            let (numbers, words): (Vec<i64>, Vec<&str>) = expected.iter().copied().unzip();
            assert_eq!(sorted.int(0), ints(&numbers));
            assert_eq!(sorted.text(1, 4), texts(&words));
        }
        let some = rows
            .marked(&[0, 1, 0, 0, 1, 0, 1], Engine::best(), 1)
            .unwrap();
        assert_eq!(some.int(0), ints(&[i64::MIN, 0, 5]));
        assert_eq!(
            some.text(1, 4),
            texts(&["", "a longer text than one word", "aa"])
        );
    }

    #[test]
    fn a_text_and_the_same_with_a_zero_behind_are_two_keys() {
        let (data, offsets) = texts(&["a", "a\0"]);
        let rows = Rows::new(&[Column::Text(&data, &offsets, 1)], vec![1; 2]).unwrap();
        let found = matched(&[&rows], &[0; 16], Wanted::Common, Engine::best(), 1).unwrap();
        assert_eq!(found.union, 2);
    }

    #[test]
    fn what_makes_no_rows_is_refused() {
        let (data, offsets) = texts(&["abc", "defghijkl"]);
        let text = |most| Rows::new(&[Column::Text(&data, &offsets, most)], vec![1; 2]).map(|_| ());
        assert_eq!(text(1), Err(Unfit::TooLong));
        assert_eq!(text(32), Err(Unfit::TooWide));
        assert_eq!(text(2), Ok(()));
        let new = |columns: &[Column<'_>], valid| Rows::new(columns, valid).map(|_| ());
        assert_eq!(new(&[], vec![1]), Err(Unfit::TooWide));
        assert_eq!(
            new(&[Column::Int(&ints(&[1, 2]))], vec![1]),
            Err(Unfit::Lengths)
        );
        assert_eq!(
            new(&[Column::Int(&ints(&[1]))], vec![2]),
            Err(Unfit::Lengths)
        );
        assert_eq!(
            new(&[Column::Text(&data, &ints(&[0, 3]), 2)], vec![1; 2]),
            Err(Unfit::Lengths)
        );
        for wrong in [[0, 3, 2], [0, 3, 99], [4, 3, 5], [-1, 3, 5]] {
            assert_eq!(
                new(&[Column::Text(&data, &ints(&wrong), 2)], vec![1; 2]),
                Err(Unfit::Offsets)
            );
        }
        let one = Rows::new(&[Column::Int(&ints(&[1]))], vec![1]).unwrap();
        let two = Rows::new(
            &[Column::Int(&ints(&[1])), Column::Int(&ints(&[1]))],
            vec![1],
        )
        .unwrap();
        assert_eq!(
            matched(&[&one, &two], &[0; 16], Wanted::Common, Engine::best(), 1),
            Err(Unfit::Parties)
        );
        assert_eq!(
            one.marked(&[1, 0], Engine::best(), 1).map(|_| ()),
            Err(Unfit::Lengths)
        );
    }

    #[test]
    fn many_widths_sort() {
        for width in 1..=WIDTH {
            let columns: Vec<Vec<u8>> = (0..width)
                .map(|column| {
                    ints(
                        &(0..100)
                            .map(|row| (row * 7919 + column as i64) % 5 - 2)
                            .collect::<Vec<_>>(),
                    )
                })
                .collect();
            let given: Vec<Column<'_>> = columns.iter().map(|column| Column::Int(column)).collect();
            let rows = Rows::new(&given, vec![1; 100]).unwrap();
            let sorted = rows.sorted(Engine::best(), 1);
            let mut expected: Vec<&[u64]> = rows.words.chunks(width).collect();
            expected.sort_unstable();
            assert_eq!(sorted.words, expected.concat());
            assert_eq!(rows.sorted(Engine::Portable, 2), sorted);
        }
    }
}
