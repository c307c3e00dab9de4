//! Planes: which byte stands for a value of a feature, and what nodes ask of that byte.
#![forbid(unsafe_code)]
use crate::model::{at_most, bad, Category, Missing, Model, Node, Refused, Test};
use std::collections::BTreeMap;

/// Thresholds of a plane.
const BOUNDS: usize = 255;
/// Ranks of categories that one plane tells apart; it also says "below" and "above", and "missing" by 255.
const RANKS: usize = 253;
const MISSING: u8 = 255;
/// Planes of a model: each takes 512 bytes for each thread.
const PLANES: usize = 1 << 16;
/// Tables of 256 bytes that the splits of categories take together.
const TABLES: usize = 1 << 18;
/// Least entries of a level, in the order in which vectors look them up.
pub(crate) const SINGLE_LANES: usize = 16;
pub(crate) const DOUBLE_LANES: usize = 8;

/// Thresholds: sorted, and level by level as a search meets them.
#[derive(Debug, Clone)]
pub(crate) struct Bounds<T> {
    pub sorted: Vec<T>,
    /// For each level its thresholds, padded with NaN, which no value reaches.
    pub levels: Vec<Vec<T>>,
}

impl<T: Copy> Bounds<T> {
    fn new(sorted: Vec<T>, lanes: usize, nan: T) -> Self {
        let count = (sorted.len() + 1)
            .next_power_of_two()
            .trailing_zeros()
            .max(1);
        let levels = (0..count)
            .map(|level| {
                let mut found: Vec<T> = (0..1usize << level)
                    .map(|place| {
                        let at = (2 * place + 1) * (1 << (count - 1 - level)) - 1;
                        sorted.get(at).copied().unwrap_or(nan)
                    })
                    .collect();
                found.resize(found.len().max(lanes), nan);
                found
            })
            .collect();
        Self { sorted, levels }
    }
}

/// What a byte of a row says: how many thresholds its value has reached, or passed if `strict`.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    pub feature: usize,
    pub strict: bool,
    pub missing: Missing,
    /// What stands for a missing value.
    pub byte: u8,
    pub single: Bounds<f32>,
    pub double: Bounds<f64>,
}

/// The largest float32 that is at most `value`.
fn floor(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) > value {
        near.next_down()
    } else {
        near
    }
}

impl Plane {
    fn new(feature: usize, strict: bool, missing: Missing, byte: u8, bounds: &[f64]) -> Self {
        // A float32 is above a threshold if it is above the float32 below, and reaches it if it reaches the one above.
        let round = |value: &f64| {
            if strict {
                floor(*value)
            } else {
                -floor(-*value)
            }
        };
        Self {
            feature,
            strict,
            missing,
            byte,
            single: Bounds::new(bounds.iter().map(round).collect(), SINGLE_LANES, f32::NAN),
            double: Bounds::new(bounds.to_vec(), DOUBLE_LANES, f64::NAN),
        }
    }
}

/// A row goes right if its byte of this plane is at least `bound`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compare {
    pub plane: u32,
    pub bound: u8,
}

/// A row goes right if one of these tables has ones for its byte of the plane.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub terms: Vec<(u32, Box<[u8; 256]>)>,
}

/// What a node asks.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Compare(Compare),
    Set(Set),
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Key {
    Number(u32, bool, Missing, bool),
    Category(u32, bool),
}

fn key(feature: u32, test: &Test) -> Key {
    match test {
        Test::Number {
            equal_left,
            missing,
            missing_right,
            ..
        } => Key::Number(
            feature,
            *equal_left,
            *missing,
            *missing_right && *missing != Missing::Never,
        ),
        Test::Category(category) => Key::Category(feature, category.below_zero),
    }
}

/// Where a category begins.
fn start(category: u32, below_zero: bool) -> f64 {
    if category == 0 && below_zero {
        (-1.0f64).next_up()
    } else {
        f64::from(category)
    }
}

/// All planes of a model.
pub(crate) struct Planes {
    pub planes: Vec<Plane>,
    keys: BTreeMap<Key, (usize, Vec<f64>)>,
    tables: usize,
}

impl Planes {
    pub fn new(model: &Model) -> Result<Self, Refused> {
        let mut keys: BTreeMap<Key, (usize, Vec<f64>)> = BTreeMap::new();
        let splits = model.trees.iter().flat_map(|tree| &tree.nodes);
        for node in splits {
            let Node::Split(split) = node else { continue };
            let bounds = &mut keys.entry(key(split.feature, &split.test)).or_default().1;
            match &split.test {
                // Adding zero makes one zero of two.
                Test::Number { threshold, .. } => bounds.push(threshold + 0.0),
                Test::Category(category) => {
                    for (value, _) in &category.listed {
                        bounds.push(start(*value, category.below_zero));
                        bounds.push(f64::from(value + 1));
                    }
                }
            }
        }
        let mut planes = Vec::new();
        // In the order of features, so that each column is read once. Keys of one feature stand apart by their kind.
        for (key, (first, bounds)) in &mut keys {
            bounds.sort_unstable_by(f64::total_cmp);
            bounds.dedup();
            *first = planes.len();
            match *key {
                Key::Number(feature, strict, missing, right) => {
                    let byte = if right { MISSING } else { 0 };
                    for part in bounds.chunks(BOUNDS) {
                        planes.push(Plane::new(feature as usize, strict, missing, byte, part));
                    }
                }
                Key::Category(feature, _) => {
                    let count = bounds.len().div_ceil(RANKS).max(1);
                    for number in 0..count {
                        let part = &bounds[number * RANKS..];
                        let part = &part[..part.len().min(RANKS + 1)];
                        let byte = if number == 0 { MISSING } else { 0 };
                        planes.push(Plane::new(
                            feature as usize,
                            false,
                            Missing::Nan,
                            byte,
                            part,
                        ));
                    }
                }
            }
            at_most(planes.len(), PLANES, "ranges of thresholds")?;
        }
        Ok(Self {
            planes,
            keys,
            tables: 0,
        })
    }

    /// What a node with this test asks.
    pub fn ask(&mut self, feature: u32, test: &Test) -> Result<Ask, Refused> {
        let Some((first, bounds)) = self.keys.get(&key(feature, test)) else {
            return bad("a split without a plane");
        };
        match test {
            Test::Number { threshold, .. } => {
                let wanted = threshold + 0.0;
                let at = bounds.partition_point(|bound| bound.total_cmp(&wanted).is_lt());
                Ok(Ask::Compare(Compare {
                    plane: (first + at / BOUNDS) as u32,
                    bound: (at % BOUNDS + 1) as u8,
                }))
            }
            Test::Category(category) => {
                let terms = terms(*first, bounds, category);
                self.tables += terms.len();
                at_most(self.tables, TABLES, "tables of categories")?;
                Ok(Ask::Set(Set { terms }))
            }
        }
    }
}

/// A table for each plane in which anything goes right, and for the first one.
fn terms(first: usize, bounds: &[f64], category: &Category) -> Vec<(u32, Box<[u8; 256]>)> {
    let count = bounds.len().div_ceil(RANKS).max(1);
    let mut tables: Vec<Option<Box<[u8; 256]>>> = vec![None; count];
    let mut right = |plane: usize, byte: usize| {
        tables[plane].get_or_insert_with(|| Box::new([0; 256]))[byte] = 0xFF;
    };
    if category.missing_right {
        right(0, usize::from(MISSING));
    }
    let mut listed = category.listed.iter().peekable();
    for rank in 0..=bounds.len() {
        let mut goes = category.other_right;
        if rank > 0 {
            let bound = bounds[rank - 1];
            while listed
                .next_if(|(value, _)| start(*value, category.below_zero) < bound)
                .is_some()
            {}
            if let Some((_, says)) =
                listed.next_if(|(value, _)| start(*value, category.below_zero) == bound)
            {
                goes = *says;
            }
        }
        if goes {
            match rank {
                0 => right(0, 0),
                _ => right((rank - 1) / RANKS, (rank - 1) % RANKS + 1),
            }
        }
    }
    let found = tables.into_iter().enumerate();
    found
        .filter_map(|(number, table)| match table {
            Some(table) => Some(((first + number) as u32, table)),
            None if number == 0 => Some((first as u32, Box::new([0; 256]))),
            None => None,
        })
        .collect()
}
