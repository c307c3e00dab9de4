//! Ensembles of trees, as all formats are read into.
#![forbid(unsafe_code)]
use crate::link::Link;
use std::fmt;

/// What models may have at most.
pub mod limits {
    /// Bytes of a model's file.
    pub const BYTES: usize = 512 << 20;
    /// Trees of a model.
    pub const TREES: usize = 100_000;
    /// Nodes of all trees of a model.
    pub const NODES: usize = 16 << 20;
    /// Edges from a root to its deepest leaf.
    pub const DEPTH: usize = 512;
    /// Features of a model.
    pub const FEATURES: usize = 65_536;
    /// Sums for each row: classes, or targets.
    pub const OUTPUTS: usize = 4_096;
    /// Leaf values of all trees; with several for each leaf they are more than the nodes.
    pub const VALUES: usize = 64 << 20;
    /// Categories that the splits of a model name, each counted where it stands.
    pub const CATEGORIES: usize = 16 << 20;
    /// Categories are below this: what float32 tells apart.
    pub const CATEGORY: u32 = 1 << 24;
}

/// Why a model was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Not a model of its format, or one that is broken.
    Malformed(String),
    /// Over a limit.
    TooLarge(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) | Self::TooLarge(text) => out.write_str(text),
        }
    }
}

/// A refusal with this reason.
pub(crate) fn bad<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Malformed(text.into()))
}

/// That `found` is at most `most`; `what` names the things that are counted.
pub(crate) fn at_most(found: usize, most: usize, what: &str) -> Result<(), Refused> {
    if found > most {
        return Err(Refused::TooLarge(format!(
            "the model has {found} {what}, the limit is {most}"
        )));
    }
    Ok(())
}

/// Which values of a feature count as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    /// None: NaN is taken as zero.
    Never,
    /// NaN.
    Nan,
    /// NaN and what is within 1e-35 of zero.
    Zero,
}

/// A split of categories. A value belongs to the category that it is cut to.
#[derive(Debug, Clone, PartialEq)]
pub struct Category {
    /// Categories and whether they go right; ascending and distinct.
    pub listed: Vec<(u32, bool)>,
    /// Whether other values go right.
    pub other_right: bool,
    /// Whether NaN goes right.
    pub missing_right: bool,
    /// Whether values between -1 and 0 are the category 0.
    pub below_zero: bool,
}

/// What decides about a row at a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// A threshold: smaller values go left.
    Number {
        /// The threshold; never NaN.
        threshold: f64,
        /// Whether equal values go left.
        equal_left: bool,
        /// What is missing.
        missing: Missing,
        /// Whether missing values go right.
        missing_right: bool,
    },
    /// Categories.
    Category(Category),
}

/// An inner node.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The feature that it looks at.
    pub feature: u32,
    /// What it asks.
    pub test: Test,
    /// The node on the left.
    pub left: u32,
    /// The node on the right.
    pub right: u32,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// The values of a leaf are those from this place times the tree's width on.
    Leaf(u32),
    /// An inner node.
    Split(Split),
}

/// A tree; its root is the first node.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Values of its leaves.
    pub values: Vec<f64>,
    /// The first sum that it adds to.
    pub output: usize,
    /// How many sums it adds to: values of each leaf.
    pub width: usize,
}

/// An ensemble.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Where it comes from, for people.
    pub kind: String,
    /// Names of the features; empty if the model has none.
    pub names: Vec<String>,
    /// The number of features.
    pub features: usize,
    /// The number of sums for each row.
    pub outputs: usize,
    /// The trees, in the order in which they are added.
    pub trees: Vec<Tree>,
    /// What each sum begins with.
    pub base: Vec<f64>,
    /// What each sum is divided by before the link.
    pub divisor: f64,
    /// Whether sums are float32, and not float64.
    pub single_sums: bool,
    /// Whether values are rounded to float32 before they are compared.
    pub single_values: bool,
    /// What becomes of the sums.
    pub link: Link,
    /// Names of the classes; empty if there are none, or the model does not say.
    pub classes: Vec<String>,
}

impl Model {
    /// The model, if all of it is whole. Raises what is wrong with the first tree that is not.
    pub fn checked(self) -> Result<Self, Refused> {
        at_most(self.features, limits::FEATURES, "features")?;
        at_most(self.outputs, limits::OUTPUTS, "outputs")?;
        at_most(self.trees.len(), limits::TREES, "trees")?;
        if self.outputs == 0 || self.base.len() != self.outputs {
            return bad("the model has no output, or another number of base scores than outputs");
        }
        if !self.names.is_empty() && self.names.len() != self.features {
            return bad(format!(
                "the model has {} features and {} names of them",
                self.features,
                self.names.len()
            ));
        }
        if !self.base.iter().all(|value| value.is_finite())
            || !self.divisor.is_finite()
            || self.divisor == 0.0
        {
            return bad("a base score of the model is not finite");
        }
        let count = |part: fn(&Tree) -> usize| self.trees.iter().map(part).sum::<usize>();
        at_most(count(|tree| tree.nodes.len()), limits::NODES, "nodes")?;
        at_most(
            count(|tree| tree.values.len()),
            limits::VALUES,
            "leaf values",
        )?;
        for (number, tree) in self.trees.iter().enumerate() {
            self.check_tree(tree).map_err(|refused| match refused {
                Refused::Malformed(text) => Refused::Malformed(format!("tree {number}: {text}")),
                Refused::TooLarge(text) => Refused::TooLarge(format!("tree {number}: {text}")),
            })?;
        }
        Ok(self)
    }

    fn check_tree(&self, tree: &Tree) -> Result<(), Refused> {
        if tree.width == 0 || tree.output + tree.width > self.outputs {
            return bad("its output is out of range");
        }
        if !tree.values.iter().all(|value| value.is_finite()) {
            return bad("a leaf is not finite");
        }
        let mut seen = vec![false; tree.nodes.len()];
        // Every node once, from the root: a second visit is a cycle, or a node with two parents.
        let mut open = vec![(0usize, 0usize)];
        while let Some((at, depth)) = open.pop() {
            let Some(node) = tree.nodes.get(at) else {
                return bad(format!("a child {at} of {} nodes", tree.nodes.len()));
            };
            if std::mem::replace(&mut seen[at], true) {
                return bad(format!("node {at} is reached twice"));
            }
            if depth > limits::DEPTH {
                return Err(Refused::TooLarge(format!(
                    "deeper than {} levels",
                    limits::DEPTH
                )));
            }
            match node {
                Node::Leaf(leaf) => {
                    if (*leaf as usize + 1).saturating_mul(tree.width) > tree.values.len() {
                        return bad(format!("node {at} has no leaf value"));
                    }
                }
                Node::Split(split) => {
                    if split.feature as usize >= self.features {
                        return bad(format!(
                            "node {at} looks at feature {} of {}",
                            split.feature, self.features
                        ));
                    }
                    check_test(at, &split.test)?;
                    open.push((split.right as usize, depth + 1));
                    open.push((split.left as usize, depth + 1));
                }
            }
        }
        Ok(())
    }
}

fn check_test(at: usize, test: &Test) -> Result<(), Refused> {
    match test {
        Test::Number { threshold, .. } if threshold.is_nan() => {
            bad(format!("node {at} has the threshold NaN"))
        }
        Test::Category(category)
            if category
                .listed
                .last()
                .is_some_and(|(last, _)| *last >= limits::CATEGORY)
                || !category.listed.windows(2).all(|two| two[0].0 < two[1].0) =>
        {
            bad(format!(
                "node {at} has categories that are not ascending, or from {} on",
                limits::CATEGORY
            ))
        }
        _ => Ok(()),
    }
}
