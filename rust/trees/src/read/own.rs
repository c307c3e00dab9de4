//! JSON of the kind `trees`, version 1: what docs/trees.md describes, and converters of other libraries write.
use super::value::Value;
use crate::link::Link;
use crate::model::{
    at_most, bad, limits, Category, Missing, Model, Node, Refused, Split, Test, Tree,
};

const KIND: &str = "trees";
const VERSION: usize = 1;
const FIELDS: [&str; 14] = [
    "kind", "version", "from", "features", "names", "classes", "outputs", "base", "divisor",
    "sums", "values", "link", "scale", "trees",
];
const TREE_FIELDS: [&str; 9] = [
    "output",
    "width",
    "feature",
    "threshold",
    "left",
    "right",
    "missing_right",
    "leaves",
    "categories",
];
const CATEGORY_FIELDS: [&str; 4] = ["node", "left", "right", "other_right"];

/// That an object has no fields but these.
fn only(value: &Value, fields: &[&str]) -> Result<(), Refused> {
    let Value::Object(found) = value else {
        return bad("an object was expected");
    };
    for (key, _) in found {
        if !fields.contains(&key.as_str()) {
            let shown: String = key.chars().take(64).collect();
            return bad(format!("the field {shown:?} is unknown"));
        }
    }
    Ok(())
}

/// The model of a document.
pub(crate) fn model(document: &Value) -> Result<Model, Refused> {
    if document.text("kind")? != KIND || document.count("version")? != VERSION {
        return bad(format!(
            "JSON of another kind than {KIND}, or of another version than {VERSION}"
        ));
    }
    only(document, &FIELDS)?;
    let single = |key: &str| match document.text(key)? {
        "float32" => Ok(true),
        "float64" => Ok(false),
        _ => bad(format!("{key:?} is neither float32 nor float64")),
    };
    let link = match document.text("link")? {
        "identity" => Link::Identity,
        "sigmoid" => match document.real("scale")? {
            scale if scale.is_finite() => Link::Sigmoid(scale),
            _ => return bad("scale is not finite"),
        },
        "exp" => Link::Exp,
        "softmax" => Link::Softmax,
        "probabilities" => Link::Probabilities,
        _ => return bad("link is unknown"),
    };
    let listed = document.list("trees")?;
    at_most(listed.len(), limits::TREES, "trees")?;
    let mut trees = Vec::with_capacity(listed.len());
    for (number, value) in listed.iter().enumerate() {
        trees.push(tree(value).map_err(|refused| match refused {
            Refused::Malformed(text) => Refused::Malformed(format!("tree {number}: {text}")),
            Refused::TooLarge(text) => Refused::TooLarge(format!("tree {number}: {text}")),
        })?);
    }
    Ok(Model {
        kind: format!("trees of {}", document.text("from")?),
        names: document.texts("names")?,
        features: document.count("features")?,
        outputs: document.count("outputs")?,
        trees,
        base: document.reals("base")?.into_owned(),
        divisor: document.real("divisor")?,
        single_sums: single("sums")?,
        single_values: single("values")?,
        link,
        classes: document.texts("classes")?,
    })
}

fn tree(value: &Value) -> Result<Tree, Refused> {
    only(value, &TREE_FIELDS)?;
    let features = value.integers("feature")?;
    let thresholds = value.reals("threshold")?;
    let left = value.integers("left")?;
    let right = value.integers("right")?;
    let missing = value.integers("missing_right")?;
    let count = features.len();
    if [thresholds.len(), left.len(), right.len(), missing.len()] != [count; 4] {
        return bad("its lists have not one entry for each node");
    }
    let mut sets: Vec<Option<Category>> = Vec::new();
    if value.field("categories").is_some() {
        sets.resize(count, None);
        for part in value.list("categories")? {
            let at = part.count("node")?;
            let (Some(set), Some(missing)) = (sets.get_mut(at), missing.get(at)) else {
                return bad("categories of a node that is not there");
            };
            *set = Some(category(part, *missing != 0)?);
        }
    }
    let mut nodes = Vec::with_capacity(count);
    for at in 0..count {
        // A leaf says where its values stand, in place of a child.
        if features[at] == -1 {
            let Ok(leaf) = u32::try_from(left[at]) else {
                return bad(format!("node {at} has no leaf value"));
            };
            nodes.push(Node::Leaf(leaf));
            continue;
        }
        let numbers = [features[at], left[at], right[at]].map(u32::try_from);
        let [Ok(feature), Ok(left), Ok(right)] = numbers else {
            return bad(format!("node {at} has a child or feature out of range"));
        };
        let test = match sets.get_mut(at).and_then(Option::take) {
            Some(category) => Test::Category(category),
            None => Test::Number {
                threshold: thresholds[at],
                equal_left: true,
                missing: Missing::Nan,
                missing_right: missing[at] != 0,
            },
        };
        nodes.push(Node::Split(Split {
            feature,
            test,
            left,
            right,
        }));
    }
    Ok(Tree {
        nodes,
        values: value.reals("leaves")?.into_owned(),
        output: value.count("output")?,
        width: value.count("width")?,
    })
}

fn category(part: &Value, missing_right: bool) -> Result<Category, Refused> {
    only(part, &CATEGORY_FIELDS)?;
    let mut listed = Vec::new();
    for (side, right) in [("left", false), ("right", true)] {
        let found = part.integers(side)?;
        at_most(found.len(), limits::CATEGORIES, "categories")?;
        for value in &*found {
            match u32::try_from(*value) {
                Ok(value) => listed.push((value, right)),
                Err(_) => return bad("a category is negative, or too large"),
            }
        }
    }
    listed.sort_unstable();
    let other_right = match part.get("other_right")? {
        Value::Bool(value) => *value,
        _ => return bad("other_right is neither true nor false"),
    };
    Ok(Category {
        listed,
        other_right,
        missing_right,
        below_zero: false,
    })
}
