//! What `mesatee bench` needs in native code: a load generator, so that the measured server is the slow end, and the speed
//! of the plain `age` crate. It prints one JSON object on standard output.
//!
//! ```text
//! mesatee-loadgen attested HOST PORT CONNECTIONS REQUESTS CERTIFICATE KEY SERVER
//! mesatee-loadgen tls      HOST PORT CONNECTIONS REQUESTS CA
//! mesatee-loadgen age      BYTES
//! ```
//!
//! REQUESTS is a file of whole HTTP/1.1 requests, each after its length (4 bytes, big endian). Every request is sent once.
//! SERVER holds the 32 bytes of the server's key, which the bench has appraised; CA is a certificate in DER.
#![forbid(unsafe_code)]

mod age_speed;
mod http;
mod load;
mod open;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["attested", host, port, connections, requests, certificate, key, server] => {
            open::attested(host, port, certificate, key, server)
                .and_then(|target| load::run(target, connections, requests))
        }
        ["tls", host, port, connections, requests, ca] => {
            open::tls(host, port, ca).and_then(|target| load::run(target, connections, requests))
        }
        ["age", bytes] => age_speed::run(bytes),
        _ => Err("unknown arguments; see the documentation of this program".into()),
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
