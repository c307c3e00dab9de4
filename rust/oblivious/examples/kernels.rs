//! Runs one kernel on values of a seed, so that its trace can be compared with that of other values.
//!
//! Kernels are `sort`, `places`, `compact`, `one_word`, `sets`, `pages`, `match` and `rows`; `branch` and `lookup` are what must be found out. Engines
//! are `portable` and `best`. `traces` says how it is run.
#![allow(unsafe_code)]
use mesatee_oblivious::external::{external, Broken, Store};
use mesatee_oblivious::matching::{find, Party, Wanted};
use mesatee_oblivious::rows::{Column, Rows};
use mesatee_oblivious::sets::combined;
use mesatee_oblivious::{compact::compact, sort, Engine, BLOCK};
use std::hint::black_box;
use std::sync::Mutex;

mod traces;
use traces::Work;

struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn words(&mut self, size: usize) -> Vec<u64> {
        (0..size).map(|_| self.next()).collect()
    }

    fn marks(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| (self.next() >> 40 & 1) as u8).collect()
    }

    /// Few different ones, so that there are ties, matches and duplicates.
    fn few(&mut self, size: usize) -> Vec<u64> {
        (0..size)
            .map(|_| (self.next() >> 33) % size as u64)
            .collect()
    }
}

/// Pages that stay in memory: how they are sealed is no matter of the kernels.
struct Shelf(Mutex<Vec<Vec<u64>>>);

impl Store for Shelf {
    fn read(&self, page: usize, words: &mut [&mut [u64]]) -> Result<(), Broken> {
        let shelf = self.0.lock().map_err(|_| Broken::Altered)?;
        let mut rest = &shelf[page][..];
        for word in words {
            let (here, after) = rest.split_at(word.len());
            word.copy_from_slice(here);
            rest = after;
        }
        Ok(())
    }

    fn write(&self, page: usize, words: &[&[u64]]) -> Result<(), Broken> {
        self.0.lock().map_err(|_| Broken::Altered)?[page] = words.concat();
        Ok(())
    }
}

/// The kernel with its input; all of the input is made before.
fn prepared(kernel: &str, engine: &str, size: usize, seed: u64) -> Work {
    let engine = match engine {
        "portable" => Engine::Portable,
        "best" => Engine::best(),
        other => panic!("no engine {other}"),
    };
    let mut values = Values(seed);
    let whole = size.next_multiple_of(BLOCK);
    match kernel {
        "sort" => {
            let [mut a, mut b, mut c] = [(); 3].map(|()| values.few(whole));
            Box::new(move || {
                sort::<3, 2>([&mut a, &mut b, &mut c], engine, 1);
                black_box((a, b, c));
            })
        }
        "places" => {
            let mut a = values.words(whole);
            Box::new(move || {
                sort::<1, 1>([&mut a], engine, 1);
                black_box(a);
            })
        }
        "compact" => {
            let (mut rows, marks) = (values.words(3 * size), values.marks(size));
            Box::new(move || {
                black_box(compact(&mut rows, 3, &marks, engine, 1));
                black_box(rows);
            })
        }
        "one_word" => {
            let (mut rows, marks) = (values.words(size), values.marks(size));
            Box::new(move || {
                black_box(compact(&mut rows, 1, &marks, engine, 1));
                black_box(rows);
            })
        }
        "sets" => {
            let parties: Vec<_> = [size, size / 2 + 1, size / 3]
                .map(|size| {
                    let keys: Vec<u8> = values
                        .few(size)
                        .into_iter()
                        .flat_map(u64::to_le_bytes)
                        .collect();
                    Rows::new(&[Column::Int(&keys)], values.marks(size)).expect("columns that fit")
                })
                .into();
            Box::new(move || {
                let given: Vec<&Rows> = parties.iter().collect();
                for wanted in [Wanted::Common, Wanted::OnlyFirst] {
                    black_box(combined(&given, &[7; 16], wanted, false, engine, 1))
                        .expect("rows that fit");
                }
            })
        }
        "pages" => {
            let parties = [size, size / 2 + 1].map(|size| {
                let keys: Vec<u8> = values
                    .few(size)
                    .into_iter()
                    .flat_map(u64::to_le_bytes)
                    .collect();
                Rows::new(&[Column::Int(&keys)], values.marks(size)).expect("columns that fit")
            });
            let store = Shelf(Mutex::new(vec![Vec::new(); 4 + 2 * size / BLOCK]));
            // What pages of one block take.
            let made = external(&parties[0], 14_000, engine, 1, |_| store);
            let mut made = made.expect("rows that fit");
            Box::new(move || {
                for (party, rows) in parties.iter().enumerate() {
                    made.add(party, rows).expect("a store that holds");
                }
                black_box(made.combine(2, Wanted::Common, true)).expect("a store that holds");
            })
        }
        "match" => {
            let parties: Vec<_> = [size, size / 2 + 1, size / 3]
                .map(|size| (values.few(size), values.marks(size)))
                .into();
            Box::new(move || {
                let given: Vec<Party<'_>> = parties
                    .iter()
                    .map(|(keys, valid)| Party { keys, valid })
                    .collect();
                for wanted in [Wanted::Common, Wanted::OnlyFirst] {
                    black_box(find(&given, 1, &[7; 16], wanted, engine, 1));
                }
            })
        }
        "rows" => {
            let bytes: Vec<u8> = values
                .few(size)
                .into_iter()
                .flat_map(u64::to_le_bytes)
                .collect();
            let rows = Rows::new(
                &[
                    Column::Int(&bytes),
                    Column::Int(&bytes),
                    Column::Int(&bytes),
                ],
                vec![1; size],
            );
            let rows = rows.expect("columns that fit");
            Box::new(move || {
                black_box(rows.sorted(engine, 1));
            })
        }
        "branch" => {
            let mut words = values.words(size);
            Box::new(move || {
                for index in 1..words.len() {
                    if words[index - 1] > words[index] {
                        words.swap(index - 1, index);
                        black_box(&mut words);
                    }
                }
                black_box(words);
            })
        }
        "lookup" => {
            let (table, mut sum) = (values.few(size), 0u64);
            Box::new(move || {
                for word in &table {
                    sum = black_box(sum.wrapping_add(table[*word as usize]));
                }
                black_box(sum);
            })
        }
        other => panic!("no kernel {other}"),
    }
}

fn main() {
    traces::run(prepared);
}
