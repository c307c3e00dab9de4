//! Sealed files in the age v1 format (C2SP age) and HPKE wraps of their keys (RFC 9180, draft-ietf-hpke-pq).
//!
//! Long-lived secrets are [`mesatee_custody::SecretBytes`]; the libraries get copies that live for one call.
#![forbid(unsafe_code)]

mod agekey;
mod error;
mod header;
mod open;
mod reader;
mod seal;
mod share;
mod stream;
mod wrap;

pub use agekey::AgeKey;
pub use error::{Reject, SealingError, Stopped};
pub use header::{AGE_HEADER_BYTES, AGE_HEADER_LINES};
pub use open::{age_file_key, age_open, age_open_bytes, OpenWith};
pub use reader::AgeReader;
pub use seal::{age_seal, Sealed, AGE_RECIPIENTS};
pub use share::{combine, split, SealedShare, Share, CONTEXT_BYTES, SHARES, SHARE_BYTES};
pub use stream::{Quiet, Watch, PROGRESS_BYTES};
pub use wrap::{
    wrap, wrap_secret_key, wrap_signing_key, FileKey, HpkeKey, ENC_BYTES, FILE_KEY_BYTES,
    HPKE_PUBLIC_BYTES, WRAP_OVERHEAD,
};
