//! Predictions of tree ensembles, and strict readers of the files that hold them.
//!
//! * [`read`]: XGBoost (JSON and UBJ), LightGBM (text), and a JSON form of our own; all become a [`Model`].
//! * [`Model::checked`]: what no model may have: cycles, children and features out of range, NaN thresholds, sizes over a
//!   limit.
//! * [`Forest`]: a model made ready to predict.
//!
//! How it predicts: the values of a feature are replaced by their rank among the thresholds that nodes compare the
//! feature with, in one byte; a feature with more than 255 thresholds has several. Every node of every tree is then
//! evaluated on 64 rows at once, one bit for each row, and the leaf of each row is worked out from these bits without a
//! branch on them (the idea of evaluating all nodes by masks: Lucchese and others, QuickScorer, SIGIR 2015). Sums are made
//! in the order and the precision of the library that trained the model, so that they are the same.
//!
//! With AVX-512 (BW and VBMI) all of this is done in vectors: no branch and no address depends on a value of a row. The
//! portable engine looks leaves and ranks up, unless it is told to be oblivious. What is not hidden: the sizes, the shape
//! of the trees, the features that their nodes look at, and among which 255 thresholds of a feature one is.
#![deny(unsafe_code)]

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod block;
mod forest;
mod link;
mod model;
mod planes;
mod portable;
pub mod read;
mod shape;

pub use forest::{Column, Engine, Forest};
pub use link::{Link, Output};
pub use model::{limits, Category, Missing, Model, Node, Refused, Split, Test, Tree};
