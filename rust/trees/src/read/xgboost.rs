//! XGBoost's models, of the releases 1.0 to 3.x: <https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html>.
use super::value::Value;
use crate::link::Link;
use crate::model::{
    at_most, bad, limits, Category, Missing, Model, Node, Refused, Split, Test, Tree,
};

/// Major releases whose models are read.
const RELEASES: std::ops::RangeInclusive<i64> = 1..=3;

/// The sum that a base score stands for.
type Inverse = fn(f32) -> f32;

/// What an objective makes of sums, and whether a base score is a sum already, or what comes out.
fn objective(name: &str) -> Result<(Link, Inverse), Refused> {
    fn same(score: f32) -> f32 {
        score
    }
    fn logit(score: f32) -> f32 {
        -(1.0 / score - 1.0).ln()
    }
    fn ln(score: f32) -> f32 {
        score.ln()
    }
    Ok(match name {
        "reg:squarederror"
        | "reg:linear"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:quantileerror"
        | "reg:expectileerror"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map"
        | "binary:logitraw" => (Link::Identity, same),
        "reg:logistic" | "binary:logistic" => (Link::Sigmoid(1.0), logit),
        "binary:hinge" => (Link::Step, same),
        "count:poisson" | "reg:gamma" | "reg:tweedie" | "survival:cox" | "survival:aft" => {
            (Link::Exp, ln)
        }
        "multi:softmax" | "multi:softprob" => (Link::Softmax, same),
        _ => {
            let shown: String = name.chars().take(64).collect();
            return bad(format!("the objective {shown:?} of XGBoost is not known"));
        }
    })
}

/// The model of a document.
pub(crate) fn model(document: &Value) -> Result<Model, Refused> {
    let version = document.integers("version")?;
    if !version
        .first()
        .is_some_and(|major| RELEASES.contains(major))
    {
        return bad(format!(
            "a model of XGBoost {}, and only those of the releases {} to {} are read",
            version.first().copied().unwrap_or_default(),
            RELEASES.start(),
            RELEASES.end()
        ));
    }
    let learner = document.get("learner")?;
    let parameters = learner.get("learner_model_param")?;
    let features = parameters.count("num_feature")?;
    let classes = parameters.count("num_class")?.max(1);
    let targets = match parameters.field("num_target") {
        Some(_) => parameters.count("num_target")?.max(1),
        None => 1,
    };
    at_most(features, limits::FEATURES, "features")?;
    at_most(classes.max(targets), limits::OUTPUTS, "outputs")?;
    if classes > 1 && targets > 1 {
        return bad("a model of several targets with several classes");
    }
    let outputs = classes.max(targets);
    let (link, sum_of) = objective(learner.get("objective")?.text("name")?)?;
    let base = base_scores(parameters.text("base_score")?, outputs, sum_of)?;
    let booster = learner.get("gradient_booster")?;
    let (trees, weights) = match booster.text("name")? {
        "gbtree" => (booster, None),
        "dart" => (booster.get("gbtree")?, Some(booster.reals("weight_drop")?)),
        "gblinear" => return bad("a linear model (gblinear) has no trees"),
        _ => return bad("the booster is neither gbtree nor dart"),
    };
    let trees = trees.get("model")?;
    let groups = trees.integers("tree_info")?;
    let listed = trees.list("trees")?;
    at_most(listed.len(), limits::TREES, "trees")?;
    if groups.len() != listed.len() {
        return bad("tree_info has not one entry for each tree");
    }
    if weights
        .as_ref()
        .is_some_and(|found| found.len() != listed.len())
    {
        return bad("weight_drop has not one entry for each tree");
    }
    let mut found = Vec::with_capacity(listed.len());
    for (number, (value, group)) in listed.iter().zip(&*groups).enumerate() {
        let mut made = tree(value, *group, outputs).map_err(|refused| in_tree(number, refused))?;
        if let Some(weights) = &weights {
            // Its sum begins with the base score there, too, which is taken away again: both round.
            for leaf in &mut made.values {
                let base = base[made.output];
                let alone = (base as f32 + *leaf as f32) - base as f32;
                *leaf = f64::from(alone * weights[number] as f32);
            }
        }
        found.push(made);
    }
    let names = learner.texts("feature_names")?;
    Ok(Model {
        kind: format!(
            "xgboost {}",
            version
                .iter()
                .map(i64::to_string)
                .collect::<Vec<_>>()
                .join(".")
        ),
        names: if names.len() == features {
            names
        } else {
            Vec::new()
        },
        features,
        outputs,
        trees: found,
        base,
        divisor: 1.0,
        single_sums: true,
        single_values: true,
        link,
        classes: named(learner, outputs),
    })
}

/// The names of the classes that `gbdt_train` leaves in the attribute `classes`; none if there is no such thing.
fn named(learner: &Value, outputs: usize) -> Vec<String> {
    let text = learner
        .field("attributes")
        .and_then(|attributes| attributes.text("classes").ok());
    let listed = text.and_then(|text| super::json::parse(text.as_bytes()).ok());
    let Some(Value::List(listed)) = listed else {
        return Vec::new();
    };
    let names = listed.into_iter().map(|name| match name {
        Value::Text(name) => Some(name),
        _ => None,
    });
    let names: Option<Vec<String>> = names.collect();
    names
        .filter(|names| names.len() == outputs.max(2))
        .unwrap_or_default()
}

fn in_tree(number: usize, refused: Refused) -> Refused {
    match refused {
        Refused::Malformed(text) => Refused::Malformed(format!("tree {number}: {text}")),
        Refused::TooLarge(text) => Refused::TooLarge(format!("tree {number}: {text}")),
    }
}

/// One number, or several in brackets from release 3.1 on; one stands for all outputs.
fn base_scores(text: &str, outputs: usize, sum_of: Inverse) -> Result<Vec<f64>, Refused> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let scores: Result<Vec<f32>, _> = inner.split(',').map(|part| part.trim().parse()).collect();
    let Ok(mut scores) = scores else {
        return bad("base_score is not a number, or a list of them");
    };
    if scores.len() == 1 {
        scores.resize(outputs, scores[0]);
    }
    if scores.len() != outputs {
        return bad(format!(
            "base_score has {} numbers for {outputs} outputs",
            scores.len()
        ));
    }
    Ok(scores
        .into_iter()
        .map(|score| sum_of(score).into())
        .collect())
}

fn tree(value: &Value, group: i64, outputs: usize) -> Result<Tree, Refused> {
    let parameters = value.get("tree_param")?;
    let count = parameters.count("num_nodes")?;
    let width = parameters.count("size_leaf_vector")?.max(1);
    if width > 1 && width != outputs {
        return bad("its leaves have another number of values than the model has outputs");
    }
    let left = value.integers("left_children")?;
    let right = value.integers("right_children")?;
    let features = value.integers("split_indices")?;
    let conditions = value.reals("split_conditions")?;
    let defaults = value.integers("default_left")?;
    let lengths = [
        left.len(),
        right.len(),
        features.len(),
        conditions.len(),
        defaults.len(),
    ];
    if lengths != [count; 5] {
        return bad("its lists have not one entry for each node");
    }
    let kinds = match value.field("split_type") {
        Some(_) => value.integers("split_type")?,
        None => vec![0; count].into(),
    };
    let mut categories = match value.field("categories_nodes") {
        Some(_) => categories(value, count)?,
        None => Vec::new(),
    };
    if kinds.len() != count || !kinds.iter().all(|kind| matches!(kind, 0 | 1)) {
        return bad("split_type has not 0 or 1 for each node");
    }
    let vectors = if width > 1 {
        Some(value.reals("base_weights")?)
    } else {
        None
    };
    let mut values = Vec::new();
    let mut nodes = Vec::with_capacity(count);
    for at in 0..count {
        if left[at] == -1 {
            nodes.push(Node::Leaf((values.len() / width) as u32));
            match &vectors {
                None => values.push(f64::from(conditions[at] as f32)),
                Some(vectors) => match vectors.get(at * width..(at + 1) * width) {
                    Some(found) => {
                        values.extend(found.iter().map(|value| f64::from(*value as f32)))
                    }
                    None => return bad("base_weights has not all values of the leaves"),
                },
            }
            continue;
        }
        let missing_right = defaults[at] == 0;
        let test = if kinds[at] == 1 {
            let Some(right) = categories.get_mut(at).map(std::mem::take) else {
                return bad(format!("node {at} has no categories"));
            };
            Test::Category(Category {
                listed: right.into_iter().map(|category| (category, true)).collect(),
                other_right: false,
                missing_right,
                below_zero: false,
            })
        } else {
            Test::Number {
                threshold: f64::from(conditions[at] as f32),
                equal_left: false,
                missing: Missing::Nan,
                missing_right,
            }
        };
        let numbers = [features[at], left[at], right[at]].map(u32::try_from);
        let [Ok(feature), Ok(left), Ok(right)] = numbers else {
            return bad(format!("node {at} has a child or feature out of range"));
        };
        nodes.push(Node::Split(Split {
            feature,
            test,
            left,
            right,
        }));
    }
    let output = if width > 1 {
        Ok(0)
    } else {
        usize::try_from(group)
    };
    let Ok(output) = output else {
        return bad("its output is out of range");
    };
    Ok(Tree {
        nodes,
        values,
        output,
        width,
    })
}

/// For each node the categories that go right.
fn categories(value: &Value, count: usize) -> Result<Vec<Vec<u32>>, Refused> {
    let all = value.integers("categories")?;
    let nodes = value.integers("categories_nodes")?;
    let begins = value.integers("categories_segments")?;
    let sizes = value.integers("categories_sizes")?;
    at_most(all.len(), limits::CATEGORIES, "categories")?;
    if nodes.len() != begins.len() || nodes.len() != sizes.len() {
        return bad("its lists of categories differ in length");
    }
    let mut found = vec![Vec::new(); if nodes.is_empty() { 0 } else { count }];
    let mut total = 0;
    for ((node, begin), size) in nodes.iter().zip(&*begins).zip(&*sizes) {
        let numbers = [*node, *begin, *size].map(usize::try_from);
        let [Ok(node), Ok(begin), Ok(size)] = numbers else {
            return bad("its categories are out of range");
        };
        let part = begin.checked_add(size).and_then(|end| all.get(begin..end));
        let (Some(part), Some(found)) = (part, found.get_mut(node)) else {
            return bad("its categories are out of range");
        };
        // Segments might overlap.
        total += size;
        at_most(total, limits::CATEGORIES, "categories")?;
        let listed: Result<Vec<u32>, _> = part
            .iter()
            .map(|category| u32::try_from(*category))
            .collect();
        let Ok(mut listed) = listed else {
            return bad("a category is negative, or too large");
        };
        listed.sort_unstable();
        listed.dedup();
        *found = listed;
    }
    Ok(found)
}
