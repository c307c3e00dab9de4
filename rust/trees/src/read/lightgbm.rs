//! LightGBM's models (text, version v3 and v4): <https://github.com/lightgbm-org/LightGBM>, `gbdt_model_text.cpp`, `tree.cpp`.
use crate::link::Link;
use crate::model::{
    at_most, bad, limits, Category, Missing, Model, Node, Refused, Split, Test, Tree,
};
use std::collections::HashMap;
use std::str::FromStr;

const VERSIONS: [&str; 2] = ["v3", "v4"];
/// Bits of a node's kind.
const CATEGORICAL: u8 = 1;
const DEFAULT_LEFT: u8 = 2;

/// Lines of a part of the file, by their keys.
struct Lines<'a>(HashMap<&'a str, &'a str>);

impl<'a> Lines<'a> {
    /// The lines up to an empty one.
    fn next(lines: &mut std::str::Lines<'a>) -> Result<Self, Refused> {
        let mut found = HashMap::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            if found.insert(key, value).is_some() {
                return bad("a key of the model stands twice");
            }
        }
        Ok(Self(found))
    }

    fn get(&self, key: &str) -> Result<&'a str, Refused> {
        self.0
            .get(key)
            .copied()
            .map_or_else(|| bad(format!("{key} is missing")), Ok)
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T, Refused> {
        let found = self.get(key)?.trim().parse();
        found.or_else(|_| bad(format!("{key} is not a number in its range")))
    }

    /// `count` numbers.
    fn numbers<T: FromStr>(&self, key: &str, count: usize) -> Result<Vec<T>, Refused> {
        let parts = self.get(key)?.split_ascii_whitespace();
        let found: Result<Vec<T>, _> = parts.map(str::parse).collect();
        match found {
            Ok(found) if found.len() == count => Ok(found),
            Ok(found) => bad(format!("{key} has {} entries, not {count}", found.len())),
            Err(_) => bad(format!("{key} has an entry that is no number in its range")),
        }
    }
}

/// What an objective makes of sums: its name, and parameters with a colon.
fn objective(text: &str) -> Result<Link, Refused> {
    let mut words = text.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let scale = || {
        let given = words.iter().find_map(|word| word.strip_prefix("sigmoid:"));
        match given.unwrap_or("1").parse::<f64>() {
            Ok(scale) if scale.is_finite() => Ok(Link::Sigmoid(scale)),
            _ => bad("sigmoid of the objective is not a number"),
        }
    };
    Ok(match name {
        "regression" | "regression_l2" | "regression_l1" | "huber" | "fair" | "quantile"
        | "mape" => {
            if words.contains(&"sqrt") {
                Link::SignedSquare
            } else {
                Link::Identity
            }
        }
        "" | "custom" | "none" | "lambdarank" | "rank_xendcg" => Link::Identity,
        "poisson" | "gamma" | "tweedie" => Link::Exp,
        "binary" | "multiclassova" => scale()?,
        "multiclass" => Link::Softmax,
        "cross_entropy" => Link::Sigmoid(1.0),
        "cross_entropy_lambda" => Link::Log1pExp,
        _ => {
            let shown: String = name.chars().take(64).collect();
            return bad(format!("the objective {shown:?} of LightGBM is not known"));
        }
    })
}

/// The model of a file.
pub(crate) fn model(data: &[u8]) -> Result<Model, Refused> {
    let Ok(text) = std::str::from_utf8(data) else {
        return bad("the model is not UTF-8");
    };
    let mut lines = text.lines();
    let head = Lines::next(&mut lines)?;
    let version = head.get("version")?;
    if !VERSIONS.contains(&version) {
        return bad(format!(
            "a model of another version than {}",
            VERSIONS.join(" and ")
        ));
    }
    let outputs: usize = head.number("num_tree_per_iteration")?;
    at_most(outputs, limits::OUTPUTS, "outputs")?;
    let last: usize = head.number("max_feature_idx")?;
    at_most(last, limits::FEATURES - 1, "features")?;
    let names: Vec<String> = head
        .get("feature_names")?
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    let link = objective(head.0.get("objective").copied().unwrap_or_default())?;
    let mut trees = Vec::new();
    let mut ended = false;
    while lines.clone().next().is_some() {
        let part = Lines::next(&mut lines)?;
        if part.0.is_empty() {
            continue;
        }
        if part.0.contains_key("end of trees") {
            ended = true;
            break;
        }
        at_most(trees.len() + 1, limits::TREES, "trees")?;
        let number = trees.len();
        if part.number::<usize>("Tree")? != number {
            return bad(format!("tree {number} is another one, or missing"));
        }
        let output = number.checked_rem(outputs).unwrap_or(0);
        let tree = tree(&part, output).map_err(|refused| match refused {
            Refused::Malformed(text) => Refused::Malformed(format!("tree {number}: {text}")),
            Refused::TooLarge(text) => Refused::TooLarge(format!("tree {number}: {text}")),
        })?;
        trees.push(tree);
    }
    if !ended {
        return bad("the model ends early: there is no end of its trees");
    }
    if outputs == 0 || trees.len() % outputs != 0 {
        return bad("the trees are not as many for each output");
    }
    let averaged = head.0.contains_key("average_output") && !trees.is_empty();
    Ok(Model {
        kind: format!("lightgbm {version}"),
        names,
        features: last + 1,
        outputs,
        divisor: if averaged {
            (trees.len() / outputs) as f64
        } else {
            1.0
        },
        trees,
        base: vec![0.0; outputs],
        single_sums: false,
        single_values: false,
        link,
        classes: Vec::new(),
    })
}

/// A child: a node, or, below zero, a leaf.
fn child(value: i64, splits: usize, leaves: usize) -> Result<u32, Refused> {
    let found = match usize::try_from(value) {
        Ok(node) if node < splits => Some(node),
        Ok(_) => None,
        Err(_) => usize::try_from(!value)
            .ok()
            .filter(|leaf| *leaf < leaves)
            .map(|leaf| splits + leaf),
    };
    found
        .and_then(|found| u32::try_from(found).ok())
        .map_or_else(
            || {
                bad(format!(
                    "a child {value} of {splits} nodes and {leaves} leaves"
                ))
            },
            Ok,
        )
}

fn tree(part: &Lines<'_>, output: usize) -> Result<Tree, Refused> {
    if part
        .0
        .get("is_linear")
        .is_some_and(|value| value.trim() != "0")
    {
        return bad("its leaves are linear models (linear_tree), which are not computed here");
    }
    let leaves: usize = part.number("num_leaves")?;
    at_most(leaves, limits::NODES, "leaves")?;
    if leaves == 0 {
        return bad("it has no leaf");
    }
    let values: Vec<f64> = part.numbers("leaf_value", leaves)?;
    let splits = leaves - 1;
    let mut nodes = Vec::with_capacity(splits + leaves);
    if splits > 0 {
        let features: Vec<u32> = part.numbers("split_feature", splits)?;
        let thresholds: Vec<f64> = part.numbers("threshold", splits)?;
        let kinds: Vec<u8> = part.numbers("decision_type", splits)?;
        let left: Vec<i64> = part.numbers("left_child", splits)?;
        let right: Vec<i64> = part.numbers("right_child", splits)?;
        let sets: usize = part.number("num_cat")?;
        at_most(sets, splits, "splits of categories in a tree")?;
        let (bounds, words) = if sets > 0 {
            let bounds: Vec<usize> = part.numbers("cat_boundaries", sets + 1)?;
            let count = *bounds.last().unwrap_or(&0);
            (bounds, part.numbers::<u32>("cat_threshold", count)?)
        } else {
            (Vec::new(), Vec::new())
        };
        for at in 0..splits {
            let kind = kinds[at];
            let test = if kind & CATEGORICAL != 0 {
                Test::Category(category(thresholds[at], &bounds, &words)?)
            } else {
                Test::Number {
                    threshold: thresholds[at],
                    equal_left: true,
                    missing: match kind >> 2 & 3 {
                        0 => Missing::Never,
                        1 => Missing::Zero,
                        2 => Missing::Nan,
                        _ => {
                            return bad(format!("node {at} has an unknown kind of missing values"))
                        }
                    },
                    missing_right: kind & DEFAULT_LEFT == 0,
                }
            };
            nodes.push(Node::Split(Split {
                feature: features[at],
                test,
                left: child(left[at], splits, leaves)?,
                right: child(right[at], splits, leaves)?,
            }));
        }
    }
    nodes.extend((0..leaves as u32).map(Node::Leaf));
    Ok(Tree {
        nodes,
        values,
        output,
        width: 1,
    })
}

/// The set of bits that a threshold numbers: its categories go left.
fn category(threshold: f64, bounds: &[usize], words: &[u32]) -> Result<Category, Refused> {
    let number = threshold as usize;
    let range = match (bounds.get(number), bounds.get(number.saturating_add(1))) {
        (Some(begin), Some(end)) if threshold >= 0.0 => words.get(*begin..*end),
        _ => None,
    };
    let Some(words) = range else {
        return bad("a split has no categories");
    };
    let mut listed = Vec::new();
    for (word, bits) in words.iter().enumerate() {
        for bit in 0..32u32 {
            if bits >> bit & 1 == 1 {
                listed.push(((32 * word) as u32 + bit, false));
            }
        }
    }
    Ok(Category {
        listed,
        other_right: true,
        missing_right: true,
        below_zero: true,
    })
}
