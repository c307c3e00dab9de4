//! The same as [`sets`](crate::sets) for more rows than fit into memory: elements lie in pages of a [`Store`].
//!
//! The network, the scan and the compaction are those of memory, with pages in place of elements where parts are larger
//! than what is held. Which page is read or written when is decided by the numbers of rows and parties alone, so the store
//! may be anybody's, as long as it hides what the pages hold and notices when one is not what was written last.
use crate::choose::less;
use crate::compact::{any_size, border, exchange, first_offset, power_of_two, preceding, How};
use crate::matching::{Wanted, PARTIES};
use crate::network::{both, exchange_parts, merge, parts, sort_part, split, Engine, Words, BLOCK};
use crate::rows::{Rows, Unfit};
use crate::sets::{fill, Scan, Shape, BELOW};
use crate::Arrays;
use core::fmt;
use core::ops::Range;

/// Pages that are held at once.
const HELD: usize = 8;
/// Bytes of a word.
const WORD: usize = 8;
/// Beside its words an element that is held takes so many bytes, for marks and how many precede it.
const MARK: usize = 9;

/// Why pages cannot be had.
#[derive(Debug)]
pub enum Broken {
    /// A page is not what was written last.
    Altered,
    /// The store cannot read or write.
    Storage(std::io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered => to.write_str("a spilled page is not what was written"),
            Self::Storage(error) => write!(to, "pages cannot be spilled: {error}"),
        }
    }
}

/// Keeps pages of one size, by number. Several threads may use different pages at once.
pub trait Store: Send + Sync {
    /// Fills `words`, one part after the other, from a page that was written.
    fn read(&self, page: usize, words: &mut [&mut [u64]]) -> Result<(), Broken>;
    /// Writes a page; the number is the next one or one that was written before.
    fn write(&self, page: usize, words: &[&[u64]]) -> Result<(), Broken>;
}

/// What was found, beside the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Different keys of each party.
    pub distinct: Vec<u64>,
    /// Different keys that are wanted.
    pub wanted: u64,
    /// Different keys that anybody has.
    pub union: u64,
}

/// Sets that are matched outside of memory: first all rows, then [`External::combine`], then the keys.
pub trait External: Send {
    /// Takes in rows of a party.
    fn add(&mut self, party: usize, rows: &Rows) -> Result<(), Broken>;
    /// Matches what was taken in. Without `listed` there will be no keys.
    fn combine(&mut self, parties: usize, wanted: Wanted, listed: bool) -> Result<Counts, Broken>;
    /// The next wanted keys in ascending order; none at the end.
    fn next(&mut self) -> Result<Option<Rows>, Broken>;
}

/// How many elements of so many words a page has, if all that is held may take `bytes`. A power of two.
///
/// # Errors
///
/// [`Unfit::TooWide`] if not even the smallest page fits.
fn unit(words: usize, bytes: usize, threads: usize) -> Result<usize, Unfit> {
    let each = words * WORD * (HELD + threads) + MARK * HELD;
    let most = bytes / each;
    if most < BLOCK {
        return Err(Unfit::TooWide);
    }
    Ok(1 << most.ilog2())
}

/// Sets of keys like those of `like`. At most `bytes` are held, beside what is taken in and given out; `store` makes a
/// store for pages of so many words.
///
/// # Errors
///
/// [`Unfit::TooWide`] for keys of over four words, or no memory for them.
pub fn external<S: Store + 'static>(
    like: &Rows,
    bytes: usize,
    engine: Engine,
    threads: usize,
    store: impl FnOnce(usize) -> S,
) -> Result<Box<dyn External>, Unfit> {
    let shape = Shape::of(&[like])?;
    macro_rules! made {
        ($words:literal, $key:literal) => {{
            let unit = unit($words, bytes, threads)?;
            Box::new(Pages::<S, $words, $key> {
                store: store(unit * $words),
                unit,
                pages: 0,
                filled: 0,
                memory: Arrays::new(unit * HELD),
                shape,
                engine,
                threads,
                wanted: 0,
                given: 0,
            })
        }};
    }
    Ok(match (shape.width, shape.room) {
        (1, false) => made!(2, 1),
        (2, true) => made!(2, 2),
        (2, false) => made!(3, 2),
        (3, true) => made!(3, 3),
        (3, false) => made!(4, 3),
        (4, true) => made!(4, 4),
        (4, false) => made!(5, 4),
        _ => return Err(Unfit::TooWide),
    })
}

struct Pages<S, const W: usize, const K: usize> {
    store: S,
    /// Elements of a page.
    unit: usize,
    pages: usize,
    /// Elements that wait for their page to become full.
    filled: usize,
    memory: Arrays<W>,
    shape: Shape,
    engine: Engine,
    threads: usize,
    wanted: usize,
    given: usize,
}

/// Reads or writes pages of the store on all threads; `words` are those of the pages, one page after the other.
fn transfer<S: Store, const W: usize>(
    store: &S,
    numbers: &[usize],
    words: Words<'_, W>,
    unit: usize,
    threads: usize,
    write: bool,
) -> Result<(), Broken> {
    if threads > 1 && numbers.len() > 1 {
        let (one, two) = numbers.split_at(numbers.len() / 2);
        let (left, right) = split(words, one.len() * unit);
        let (mut first, mut second) = (Ok(()), Ok(()));
        both(
            true,
            || first = transfer(store, one, left, unit, threads.div_ceil(2), write),
            || second = transfer(store, two, right, unit, threads / 2, write),
        );
        return first.and(second);
    }
    let mut rest = words;
    for number in numbers {
        let (mut page, after) = split(rest, unit);
        rest = after;
        if write {
            store.write(*number, &page.each_ref().map(|word| &**word))?;
        } else {
            store.read(*number, &mut page)?;
        }
    }
    Ok(())
}

impl<S: Store, const W: usize, const K: usize> Pages<S, W, K> {
    /// Has these pages in memory for `work`, and writes them back.
    fn with(&mut self, numbers: &[usize], work: impl FnOnce(Words<'_, W>)) -> Result<(), Broken> {
        self.load(numbers)?;
        work(self.held(numbers.len()));
        self.save(numbers)
    }

    fn held(&mut self, pages: usize) -> Words<'_, W> {
        let unit = self.unit;
        self.memory.words().map(|word| &mut word[..pages * unit])
    }

    fn load(&mut self, numbers: &[usize]) -> Result<(), Broken> {
        let words = self.memory.words();
        transfer(&self.store, numbers, words, self.unit, self.threads, false)
    }

    fn save(&mut self, numbers: &[usize]) -> Result<(), Broken> {
        let words = self.memory.words();
        transfer(&self.store, numbers, words, self.unit, self.threads, true)
    }

    fn sort(&mut self, range: Range<usize>, up: bool) -> Result<(), Broken> {
        let (engine, threads) = (self.engine, self.threads);
        let count = range.len();
        if count <= HELD {
            let numbers: Vec<usize> = range.collect();
            return self.with(&numbers, |words| {
                sort_part::<W, K>(words, up, engine, threads)
            });
        }
        // Whole memories where that can be, so that none is sorted half full.
        let middle = if count < 2 * HELD {
            HELD
        } else {
            count / 2 / HELD * HELD
        };
        self.sort(range.start..range.start + middle, !up)?;
        self.sort(range.start + middle..range.end, up)?;
        self.merge(range, up)
    }

    fn merge(&mut self, range: Range<usize>, up: bool) -> Result<(), Broken> {
        let (engine, threads) = (self.engine, self.threads);
        let count = range.len();
        if count <= HELD {
            let numbers: Vec<usize> = range.collect();
            return self.with(&numbers, |words| merge::<W, K>(words, up, engine, threads));
        }
        // The largest power of two below the number.
        let middle = 1 << (usize::BITS - 1 - (count - 1).leading_zeros());
        if count != 2 * middle || count == 2 * HELD {
            return self.steps::<2>(range, middle, up);
        }
        if count == 4 * HELD {
            return self.steps::<4>(range, count / 4, up);
        }
        self.steps::<8>(range, count / 8, up)
    }

    /// As many steps of a merge as `P` has bits, in one pass; then the parts are merged.
    fn steps<const P: usize>(
        &mut self,
        range: Range<usize>,
        length: usize,
        up: bool,
    ) -> Result<(), Broken> {
        let (engine, threads, unit) = (self.engine, self.threads, self.unit);
        for index in 0..range.len() - (P - 1) * length {
            let numbers: [usize; P] =
                std::array::from_fn(|part| range.start + part * length + index);
            self.with(&numbers, |words| {
                exchange_parts::<W, K, P>(parts(words, unit), up, engine, threads);
            })?;
        }
        for begin in range.clone().step_by(length) {
            self.merge(begin..range.end.min(begin + length), up)?;
        }
        Ok(())
    }

    /// Counts, and leaves in each element whether it is the last of a wanted key; returns how many of each page are.
    fn scan(&mut self, scan: &mut Scan, listed: bool) -> Result<Vec<u64>, Broken> {
        let unit = self.unit;
        let (mut found, mut marks) = (Vec::with_capacity(self.pages), vec![0u8; unit]);
        // Two pages: one that is looked at, and the one behind it.
        let mut slot = 0;
        self.load_to(0, slot)?;
        for page in 0..self.pages {
            let behind = 1 - slot;
            if page + 1 < self.pages {
                self.load_to(page + 1, behind)?;
            }
            let words = self.memory.words();
            let next =
                (page + 1 < self.pages).then(|| words.each_ref().map(|word| word[behind * unit]));
            let here = words.each_ref().map(|word| &word[slot * unit..][..unit]);
            scan.mark(here, next, &mut marks);
            let mut count = 0;
            for (word, mark) in words[W - 1][slot * unit..].iter_mut().zip(&marks) {
                *word = *word >> BELOW << BELOW | u64::from(*mark);
                count += u64::from(*mark);
            }
            found.push(count);
            if listed {
                let page_words = words.each_ref().map(|word| &word[slot * unit..][..unit]);
                self.store.write(page, &page_words)?;
            }
            slot = behind;
        }
        Ok(found)
    }

    fn load_to(&mut self, page: usize, slot: usize) -> Result<(), Broken> {
        let unit = self.unit;
        let mut words = self
            .memory
            .words()
            .map(|word| &mut word[slot * unit..][..unit]);
        self.store.read(page, &mut words)
    }

    fn how(&self) -> How {
        How {
            width: 1,
            engine: self.engine,
            threads: self.threads,
        }
    }

    /// Compacts pages that are held, by `work` on each of their words.
    fn compact_held(
        &mut self,
        range: Range<usize>,
        work: impl Fn(&mut [u64], &[u64]),
    ) -> Result<(), Broken> {
        let numbers: Vec<usize> = range.collect();
        self.with(&numbers, |words| {
            let marks: Vec<u8> = words[W - 1].iter().map(|word| (word & 1) as u8).collect();
            let before = preceding(&marks);
            drop(marks);
            for word in words {
                work(word, &before);
            }
        })
    }

    /// As [`any_size`], for pages; `before` are the marks before each page.
    fn compact(&mut self, range: Range<usize>, before: &[u64]) -> Result<(), Broken> {
        let how = self.how();
        if range.len() <= HELD {
            return self.compact_held(range, |word, counts| any_size(word, counts, how));
        }
        let large = 1usize << range.len().ilog2();
        let small = range.len() - large;
        let middle = range.start + small;
        let marked = before[middle] - before[range.start];
        let unit = self.unit as u64;
        let offset = first_offset(large as u64 * unit, small as u64 * unit, marked);
        if small > 0 {
            self.compact(range.start..middle, before)?;
        }
        self.compact_power(middle..range.end, before, offset)?;
        self.exchange(range.start..middle, large, marked, 0)
    }

    /// As [`power_of_two`], for pages.
    fn compact_power(
        &mut self,
        range: Range<usize>,
        before: &[u64],
        offset: u64,
    ) -> Result<(), Broken> {
        let how = self.how();
        if range.len() <= HELD {
            return self.compact_held(range, |word, counts| {
                power_of_two(word, counts, offset, how);
            });
        }
        let pages = range.len() / 2;
        let middle = range.start + pages;
        let half = (pages * self.unit) as u64;
        let marked = before[middle] - before[range.start];
        self.compact_power(range.start..middle, before, offset & (half - 1))?;
        self.compact_power(middle..range.end, before, (offset + marked) & (half - 1))?;
        let (border, turned) = border(half, offset, marked);
        self.exchange(range.start..middle, pages, border, turned)
    }

    /// Exchanges the elements of these pages with those `apart` pages behind, from `border` on or before it.
    fn exchange(
        &mut self,
        range: Range<usize>,
        apart: usize,
        border: u64,
        turned: u64,
    ) -> Result<(), Broken> {
        let (how, unit) = (self.how(), self.unit);
        for (index, page) in range.enumerate() {
            let first = (index * unit) as u64;
            // Where the border lies for this page's elements; beyond the page is as good as its end.
            let here = border.wrapping_sub(first) & crate::choose::mask(less(first, border));
            self.with(&[page, page + apart], |words| {
                for word in words {
                    let (left, right) = word.split_at_mut(unit);
                    exchange(left, right, here, turned, how);
                }
            })?;
        }
        Ok(())
    }
}

impl<S: Store, const W: usize, const K: usize> External for Pages<S, W, K> {
    fn add(&mut self, party: usize, rows: &Rows) -> Result<(), Broken> {
        assert!(
            party < PARTIES && rows.width == self.shape.width && rows.room == self.shape.room,
            "rows of another shape"
        );
        let mut done = 0;
        while done < rows.len() {
            let now = (self.unit - self.filled).min(rows.len() - done);
            let mut words = self.memory.words();
            fill(&mut words, self.filled, rows, done..done + now, party);
            self.filled += now;
            done += now;
            if self.filled == self.unit {
                self.save(&[self.pages])?;
                self.pages += 1;
                self.filled = 0;
            }
        }
        Ok(())
    }

    fn combine(&mut self, parties: usize, wanted: Wanted, listed: bool) -> Result<Counts, Broken> {
        if self.filled > 0 || self.pages == 0 {
            let (unit, filled) = (self.unit, self.filled);
            for (number, word) in self.memory.words().into_iter().enumerate() {
                // As in memory: takes no part, and divides no key.
                word[filled..unit].fill(if number + 1 < W { u64::MAX } else { 0 });
            }
            self.save(&[self.pages])?;
            self.pages += 1;
            self.filled = 0;
        }
        self.sort(0..self.pages, true)?;
        let mut scan = Scan::new(parties, wanted);
        let counts = self.scan(&mut scan, listed)?;
        if listed {
            let mut before = vec![0];
            for count in counts {
                before.push(before[before.len() - 1] + count);
            }
            self.compact(0..self.pages, &before)?;
            self.wanted = before[self.pages] as usize;
        }
        Ok(Counts {
            distinct: scan.distinct,
            wanted: scan.wanted,
            union: scan.union,
        })
    }

    fn next(&mut self) -> Result<Option<Rows>, Broken> {
        if self.given == self.wanted {
            return Ok(None);
        }
        self.load(&[self.given / self.unit])?;
        let count = self.unit.min(self.wanted - self.given);
        self.given += count;
        let shape = self.shape;
        let words = self.held(1);
        Ok(Some(crate::sets::listed(words, count, shape)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Column;
    use crate::sets::combined;
    use std::sync::{Arc, Mutex};

    /// Pages in memory, and what was done with them.
    #[derive(Clone, Default)]
    struct Shelf(Arc<Mutex<Kept>>);

    /// Whether a page was written, and which.
    type Use = (bool, usize);
    type Kept = (Vec<Vec<u64>>, Vec<Use>);

    impl Store for Shelf {
        fn read(&self, page: usize, words: &mut [&mut [u64]]) -> Result<(), Broken> {
            let mut shelf = self.0.lock().unwrap();
            shelf.1.push((false, page));
            let mut rest = &shelf.0.get(page).ok_or(Broken::Altered)?[..];
            for word in words {
                let (here, after) = rest.split_at(word.len());
                word.copy_from_slice(here);
                rest = after;
            }
            Ok(())
        }

        fn write(&self, page: usize, words: &[&[u64]]) -> Result<(), Broken> {
            let mut shelf = self.0.lock().unwrap();
            shelf.1.push((true, page));
            if page == shelf.0.len() {
                shelf.0.push(Vec::new());
            }
            shelf.0[page] = words.concat();
            Ok(())
        }
    }

    fn noise(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        }
    }

    fn given(next: &mut impl FnMut(u64) -> u64, size: u64, width: usize, text: bool) -> Rows {
        let keys: Vec<u64> = (0..size).map(|_| next(size)).collect();
        let ints: Vec<u8> = keys
            .iter()
            .flat_map(|key| (i64::MAX - *key as i64).to_le_bytes())
            .collect();
        let (mut data, mut offsets) = (Vec::new(), 0u64.to_le_bytes().to_vec());
        for key in &keys {
            data.extend(key.to_string().bytes());
            offsets.extend((data.len() as u64).to_le_bytes());
        }
        let mut columns = vec![Column::Int(&ints); width - 2 * usize::from(text)];
        if text {
            columns.push(Column::Text(&data, &offsets, 1));
        }
        let valid = keys.iter().map(|_| u8::from(next(9) > 0)).collect();
        Rows::new(&columns, valid).unwrap()
    }

    /// What memory and pages find, and which pages were used.
    fn both_ways(parties: &[Rows], wanted: Wanted, threads: usize) -> Vec<Use> {
        let all: Vec<&Rows> = parties.iter().collect();
        let expected = combined(&all, &[1; 16], wanted, true, Engine::best(), 1).unwrap();
        let shelf = Shelf::default();
        // As much as makes pages of one block.
        let bytes = BLOCK * (7 * WORD * (HELD + threads) + MARK * HELD);
        let mut found =
            external(all[0], bytes, Engine::best(), threads, |_| shelf.clone()).unwrap();
        for (party, rows) in all.iter().enumerate() {
            found.add(party, rows).unwrap();
        }
        let counts = found.combine(all.len(), wanted, true).unwrap();
        assert_eq!(counts.distinct, expected.distinct);
        assert_eq!(
            (counts.wanted, counts.union),
            (expected.wanted, expected.union)
        );
        let mut keys = Vec::new();
        while let Some(rows) = found.next().unwrap() {
            keys.extend_from_slice(&rows.words);
        }
        assert_eq!(keys, expected.keys.unwrap().words);
        let used = shelf.0.lock().unwrap().1.clone();
        used
    }

    #[test]
    fn pages_give_what_memory_gives() {
        let mut next = noise(5);
        for parties in [2, 3] {
            for size in [0, 1, 63, 64, 500, 700, 1500, 5000, 12_000] {
                for (width, text) in [(1, false), (2, true), (2, false), (3, true), (4, false)] {
                    let rows: Vec<Rows> = (0..parties)
                        .map(|_| given(&mut next, size, width, text))
                        .collect();
                    for wanted in [Wanted::Common, Wanted::OnlyFirst] {
                        both_ways(&rows, wanted, 2);
                    }
                }
            }
        }
    }

    #[test]
    fn which_pages_are_used_does_not_depend_on_the_keys() {
        for size in [100, 3000, 20_000] {
            let used = [1, 2].map(|seed| {
                let mut next = noise(seed);
                // Of one number, whatever is in common.
                let rows = [
                    given(&mut next, size, 1, false),
                    given(&mut next, size, 1, false),
                ];
                let mut used = both_ways(&rows, Wanted::Common, 1);
                // The last reads give the keys out: how many there are is part of the result.
                let last = used.iter().rposition(|(write, _)| *write).unwrap();
                used.truncate(last + 1);
                used
            });
            assert!(used[0] == used[1]);
        }
    }

    #[test]
    fn wide_keys_and_little_memory_are_refused() {
        let rows = given(&mut noise(1), 1, 5, false);
        let new = |rows: &Rows, bytes| {
            external(rows, bytes, Engine::best(), 1, |_| Shelf::default()).map(|_| ())
        };
        assert_eq!(new(&rows, 1 << 30), Err(Unfit::TooWide));
        let rows = given(&mut noise(1), 1, 1, false);
        assert_eq!(new(&rows, 1000), Err(Unfit::TooWide));
        assert_eq!(new(&rows, 1 << 20), Ok(()));
    }
}
