//! Predicts with one model on rows of a seed, so that the trace can be compared with that of other rows.
//!
//! Kernels are `numbers`, `deep` (over 256 leaves), `categories`, `double` and `classes`; `walk`, which follows each row
//! down a tree, is what must be found out, and so is `numbers` with the engine `quick`. Engines are `portable`, which is
//! oblivious, `best`, and `quick`: portable without being oblivious. `traces` says how it is run.
#![allow(unsafe_code)]
use mesatee_trees::{
    Category, Column, Engine, Forest, Link, Missing, Model, Node, Output, Split, Test, Tree,
};
use std::hint::black_box;

#[path = "../../oblivious/examples/traces/mod.rs"]
mod traces;
use traces::Work;

const FEATURES: usize = 3;

struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    /// Between -4 and 4, in steps that thresholds have too.
    fn number(&mut self) -> f64 {
        ((self.next() >> 40) % 512) as f64 / 64.0 - 4.0
    }

    /// With missing and infinite ones.
    fn value(&mut self) -> f64 {
        // Without a branch, for callgrind counts what is done here, too.
        let (kind, number) = ((self.next() >> 40) % 8, self.number());
        let kinds = [
            f64::NAN,
            f64::INFINITY,
            0.0,
            number,
            number,
            number,
            number,
            number,
        ];
        kinds[kind as usize]
    }
}

/// A complete tree, or with `chain` one whose right children are leaves.
fn tree(values: &mut Values, splits: usize, chain: bool, categories: bool, output: usize) -> Tree {
    let mut nodes = Vec::new();
    for at in 0..splits {
        let test = if categories && at % 2 == 0 {
            Test::Category(Category {
                listed: vec![(0, true), (2, at % 4 == 0)],
                other_right: false,
                missing_right: at % 4 == 2,
                below_zero: true,
            })
        } else {
            Test::Number {
                threshold: values.number(),
                equal_left: at % 3 == 0,
                missing: [Missing::Nan, Missing::Zero, Missing::Never][at % 3],
                missing_right: at % 2 == 0,
            }
        };
        let (left, right) = if chain {
            (
                if at + 1 < splits { at + 1 } else { 2 * splits },
                splits + at,
            )
        } else {
            (2 * at + 1, 2 * at + 2)
        };
        nodes.push(Node::Split(Split {
            feature: (at % FEATURES) as u32,
            test,
            left: left as u32,
            right: right as u32,
        }));
    }
    nodes.extend((0..=splits as u32).map(Node::Leaf));
    Tree {
        nodes,
        values: (0..=splits).map(|_| values.number()).collect(),
        output,
        width: 1,
    }
}

fn model(kernel: &str) -> Model {
    let values = &mut Values(7);
    let trees = match kernel {
        "deep" => vec![tree(values, 300, true, false, 0)],
        "categories" => vec![tree(values, 3, false, true, 0)],
        "classes" => (0..3)
            .map(|output| tree(values, 7, false, false, output))
            .collect(),
        _ => vec![
            tree(values, 15, false, false, 0),
            tree(values, 31, false, false, 0),
        ],
    };
    let outputs = if kernel == "classes" { 3 } else { 1 };
    Model {
        kind: String::new(),
        names: Vec::new(),
        features: FEATURES,
        outputs,
        trees,
        base: vec![0.5; outputs],
        divisor: 1.0,
        single_sums: kernel != "double",
        single_values: kernel != "double",
        link: if kernel == "classes" {
            Link::Softmax
        } else {
            Link::Sigmoid(1.0)
        },
        classes: Vec::new(),
    }
}

/// What a plain predictor does, on the complete tree of `numbers`.
fn walk(thresholds: &[f64], rows: &[f64]) -> f64 {
    let mut sum = 0.0;
    for value in rows {
        let mut at = 0;
        while at < thresholds.len() {
            at = if *value < thresholds[at] {
                2 * at + 1
            } else {
                2 * at + 2
            };
        }
        sum += black_box(at as f64);
    }
    sum
}

/// The kernel with its input; all of the input is made before.
fn prepared(kernel: &str, engine: &str, size: usize, seed: u64) -> Work {
    let mut values = Values(seed);
    if kernel == "walk" {
        let thresholds: Vec<f64> = (0..31).map(|_| values.number()).collect();
        let rows: Vec<f64> = (0..size).map(|_| values.number()).collect();
        return Box::new(move || {
            black_box(walk(&thresholds, &rows));
        });
    }
    let (engine, oblivious) = match engine {
        "portable" => (Engine::Portable, true),
        "quick" => (Engine::Portable, false),
        "best" => (Engine::best(), true),
        other => panic!("no engine {other}"),
    };
    let forest = Forest::new(model(kernel)).expect("a model that is whole");
    let double: Vec<Vec<f64>> = (0..FEATURES)
        .map(|_| (0..size).map(|_| values.value()).collect())
        .collect();
    let single: Vec<Vec<f32>> = double
        .iter()
        .map(|column| column.iter().map(|value| *value as f32).collect())
        .collect();
    let wide = kernel == "double";
    let asked: &[Output] = if kernel == "classes" {
        &[Output::Response, Output::Class]
    } else {
        &[Output::Response]
    };
    Box::new(move || {
        let columns: Vec<Column<'_>> = single
            .iter()
            .zip(&double)
            .map(|(single, double)| {
                if wide {
                    Column::Double(double)
                } else {
                    Column::Single(single)
                }
            })
            .collect();
        for output in asked {
            let found = forest.predict(&columns, size, *output, engine, oblivious, 1);
            black_box(found).expect("columns that fit");
        }
    })
}

fn main() {
    traces::run(prepared);
}
