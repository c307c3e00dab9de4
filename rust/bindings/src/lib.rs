//! Thin Python bindings of the Rust core (`mesatee._core`): conversion of arguments and errors, nothing else.
use pyo3::prelude::*;

mod channel;
mod crypto;
mod errors;
mod evidence;
mod keys;
mod merkle;
mod oblivious;
mod sandbox;
mod sealing;
mod share;
mod spill;
mod strictjson;
mod trees;

/// The memory-safe core.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    keys::register(module)?;
    sealing::register(module)?;
    share::register(module)?;
    strictjson::register(module)?;
    evidence::register(module)?;
    merkle::register(module)?;
    oblivious::register(module)?;
    trees::register(module)?;
    crypto::register(module)?;
    spill::register(module)?;
    channel::register(module)?;
    sandbox::register(module)
}
