//! The speed of the `age` crate by itself: one recipient, from memory into memory, without digest or file.

use crate::open::number;
use std::io::{Read, Write};
use std::time::Instant;

/// One piece that is written or read at once, in bytes.
const PIECE: usize = 1024 * 1024;

pub(crate) fn run(bytes: &str) -> Result<String, String> {
    let bytes: usize = number(bytes)?;
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    let plain = vec![0x5a; bytes];
    // A buffer whose pages are there already, as those of a caller that reuses its buffer.
    let mut sealed = vec![1; bytes + bytes / 1024 + 64 * 1024];
    sealed.clear();
    let start = Instant::now();
    let failed = |error: &dyn std::fmt::Display| format!("age failed: {error}");
    let encryptor =
        age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            .map_err(|error| failed(&error))?;
    let mut writer = encryptor
        .wrap_output(&mut sealed)
        .map_err(|error| failed(&error))?;
    for piece in plain.chunks(PIECE) {
        writer.write_all(piece).map_err(|error| failed(&error))?;
    }
    writer.finish().map_err(|error| failed(&error))?;
    let seal = start.elapsed().as_secs_f64();

    let mut opened = plain;
    let start = Instant::now();
    let decryptor = age::Decryptor::new(sealed.as_slice()).map_err(|error| failed(&error))?;
    let mut reader = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(|error| failed(&error))?;
    for piece in opened.chunks_mut(PIECE) {
        reader.read_exact(piece).map_err(|error| failed(&error))?;
    }
    let open = start.elapsed().as_secs_f64();
    Ok(format!(
        r#"{{"bytes":{bytes},"seal":{seal:.6},"open":{open:.6}}}"#
    ))
}
