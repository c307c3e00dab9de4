//! Reading models. Every byte may be hostile: each reader gives a [`Model`](crate::Model) that is checked, or a reason.
#![forbid(unsafe_code)]

mod json;
mod lightgbm;
mod own;
mod ubj;
mod value;
mod xgboost;

use crate::model::{at_most, bad, limits, Model, Refused};

/// The model of a file, whose format shows at its beginning.
pub fn model(data: &[u8]) -> Result<Model, Refused> {
    at_most(data.len(), limits::BYTES, "bytes")?;
    let found = match data {
        [b'{', rest @ ..] => {
            // UBJ begins with the length of its first key, JSON with a quotation mark, after white space at most.
            let text = rest.iter().find(|byte| !byte.is_ascii_whitespace());
            let document = if text.is_none_or(|byte| matches!(byte, b'"' | b'}')) {
                json::parse(data)?
            } else {
                ubj::parse(data)?
            };
            if document.field("learner").is_some() {
                xgboost::model(&document)?
            } else {
                own::model(&document)?
            }
        }
        [b't', b'r', b'e', b'e', b'\n' | b'\r', ..] => lightgbm::model(data)?,
        _ => {
            return bad(
                "this is neither a model of XGBoost (JSON or UBJ) nor one of LightGBM (text) nor JSON of the kind trees",
            )
        }
    };
    found.checked()
}
