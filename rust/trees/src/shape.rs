//! Trees made ready: in which order nodes are evaluated, and where leaves are looked up.
#![forbid(unsafe_code)]
use crate::block::{choose, Bits, ALL, BITS, LEAVES, NONE};
use crate::model::{Node, Refused, Split, Tree};
use crate::planes::{Ask, Compare, Planes, Set};

/// The deepest tree that is made complete, by nodes that decide nothing.
const COMPLETE_DEPTH: usize = 8;
/// A complete tree may have so many places for each node that is there.
const COMPLETE_PLACES: usize = 4;

/// One node of a tree that is walked from its root, each node before those below it, left before right.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub depth: u32,
    /// Whether it is on the right of the node above it.
    pub right: bool,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The number of a leaf.
    Leaf(u32),
    Split(Ask),
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    /// All nodes level by level; the number of a leaf is the way to it. Some nodes ask for categories instead.
    Complete {
        depth: usize,
        nodes: Vec<Compare>,
        sets: Vec<(usize, Set)>,
    },
    Steps(Vec<Step>),
}

/// A tree made ready.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub shape: Shape,
    pub output: usize,
    pub width: usize,
    /// Groups of 256 leaves.
    pub groups: usize,
    /// Places of a table: 64, 128 or 256.
    pub entries: usize,
    /// For each output, group and byte of a number: that byte of all leaves.
    pub tables: Vec<u8>,
}

impl Plan {
    /// `bytes` turns a leaf's value into the bytes of its sum; `size` says how many they are.
    pub fn new(
        tree: &Tree,
        planes: &mut Planes,
        size: usize,
        bytes: impl Fn(f64) -> [u8; 8],
    ) -> Result<Self, Refused> {
        let (depth, splits) = extent(tree);
        let complete = depth <= COMPLETE_DEPTH && 1 << depth <= COMPLETE_PLACES * splits + 64;
        let (shape, leaves) = if complete {
            whole(tree, depth, planes)?
        } else {
            steps(tree, planes)?
        };
        let groups = leaves.len().div_ceil(LEAVES).max(1);
        let entries = leaves.len().next_power_of_two().clamp(64, LEAVES);
        let mut tables = vec![0; tree.width * groups * size * entries];
        for (number, leaf) in leaves.iter().enumerate() {
            for output in 0..tree.width {
                let value = bytes(tree.values[*leaf as usize * tree.width + output]);
                let table = (output * groups + number / LEAVES) * size * entries;
                for (byte, part) in value.iter().take(size).enumerate() {
                    tables[table + byte * entries + number % LEAVES] = *part;
                }
            }
        }
        Ok(Self {
            shape,
            output: tree.output,
            width: tree.width,
            groups,
            entries,
            tables,
        })
    }
}

/// Depth and number of splits.
fn extent(tree: &Tree) -> (usize, usize) {
    let (mut deepest, mut splits) = (0, 0);
    let mut open = vec![(0u32, 0)];
    while let Some((at, depth)) = open.pop() {
        deepest = deepest.max(depth);
        if let Node::Split(split) = &tree.nodes[at as usize] {
            splits += 1;
            open.extend([(split.left, depth + 1), (split.right, depth + 1)]);
        }
    }
    (deepest, splits)
}

/// A complete tree, and its leaves from left to right.
fn whole(tree: &Tree, depth: usize, planes: &mut Planes) -> Result<(Shape, Vec<u32>), Refused> {
    let nothing = Compare { plane: 0, bound: 0 };
    let mut nodes = vec![nothing; (1 << depth) - 1];
    let mut sets = Vec::new();
    let mut leaves = vec![0; 1 << depth];
    // Node of the tree, its place among the complete tree's nodes from 1 on, and how many levels are left below it.
    let mut open = vec![(0u32, 1usize, depth)];
    while let Some((at, place, left)) = open.pop() {
        match &tree.nodes[at as usize] {
            Node::Leaf(leaf) => {
                let first = (place << left) - (1 << depth);
                leaves[first..first + (1 << left)].fill(*leaf);
            }
            Node::Split(Split {
                feature,
                test,
                left: under,
                right,
            }) => {
                match planes.ask(*feature, test)? {
                    Ask::Compare(compare) => nodes[place - 1] = compare,
                    Ask::Set(set) => sets.push((place - 1, set)),
                }
                open.push((*under, 2 * place, left - 1));
                open.push((*right, 2 * place + 1, left - 1));
            }
        }
    }
    Ok((Shape::Complete { depth, nodes, sets }, leaves))
}

fn steps(tree: &Tree, planes: &mut Planes) -> Result<(Shape, Vec<u32>), Refused> {
    let (mut steps, mut leaves) = (Vec::new(), Vec::new());
    let mut open = vec![(0u32, 0u32, false)];
    while let Some((at, depth, right)) = open.pop() {
        let kind = match &tree.nodes[at as usize] {
            Node::Leaf(leaf) => {
                leaves.push(*leaf);
                Kind::Leaf(leaves.len() as u32 - 1)
            }
            Node::Split(split) => {
                open.push((split.right, depth + 1, true));
                open.push((split.left, depth + 1, false));
                Kind::Split(planes.ask(split.feature, &split.test)?)
            }
        };
        steps.push(Step { depth, right, kind });
    }
    Ok((Shape::Steps(steps), leaves))
}

/// Bits of the numbers of leaves, the lowest first, and which rows are in the group.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub bits: [Bits; BITS],
    pub here: Bits,
}

/// Memory that trees are evaluated in.
pub(crate) struct Scratch {
    /// Answers of a complete tree's nodes.
    answers: Vec<Bits>,
    level: Vec<Bits>,
    /// For each depth, which rows are there, and the answer of the node.
    way: Vec<(Bits, Bits)>,
    /// For each group of leaves.
    pub numbers: Vec<Numbers>,
}

impl Scratch {
    pub fn new(plans: &[Plan]) -> Self {
        let deepest = plans.iter().map(|plan| match &plan.shape {
            Shape::Steps(steps) => steps.iter().map(|step| step.depth as usize).max(),
            Shape::Complete { .. } => None,
        });
        let groups = plans.iter().map(|plan| plan.groups).max().unwrap_or(1);
        let fresh = Numbers {
            bits: [NONE; BITS],
            here: ALL,
        };
        Self {
            answers: vec![NONE; 1 << COMPLETE_DEPTH],
            level: vec![NONE; 1 << COMPLETE_DEPTH],
            way: vec![(NONE, NONE); deepest.flatten().max().unwrap_or(0) + 1],
            numbers: vec![fresh; groups],
        }
    }

    /// The numbers of the leaves of all rows. `compare` and `member` answer for a node.
    ///
    /// Inlined into each engine, so that it is compiled for what the engine may use.
    #[inline(always)]
    pub fn find(
        &mut self,
        plan: &Plan,
        compare: impl Fn(&Compare) -> Bits,
        member: impl Fn(&Set) -> Bits,
    ) {
        match &plan.shape {
            Shape::Complete { depth, nodes, sets } => {
                for (answer, node) in self.answers.iter_mut().zip(nodes) {
                    *answer = compare(node);
                }
                for (place, set) in sets {
                    self.answers[*place] = member(set);
                }
                let numbers = &mut self.numbers[0];
                numbers.here = ALL;
                for at in 0..*depth {
                    // Of the nodes of this level, halve those that can be a row's, from the last turn to the first.
                    let mut count = 1 << at;
                    let from = &self.answers[count - 1..2 * count - 1];
                    self.level[..count].copy_from_slice(from);
                    for turn in (0..at).rev() {
                        let taken = numbers.bits[depth - 1 - turn];
                        count /= 2;
                        for pair in 0..count {
                            let (left, right) = (self.level[2 * pair], self.level[2 * pair + 1]);
                            self.level[pair] = choose(&taken, &left, &right);
                        }
                    }
                    numbers.bits[depth - 1 - at] = self.level[0];
                }
                for bits in &mut numbers.bits[*depth..] {
                    *bits = NONE;
                }
            }
            Shape::Steps(steps) => {
                for numbers in &mut self.numbers[..plan.groups] {
                    numbers.bits = [NONE; BITS];
                    numbers.here = NONE;
                }
                for step in steps {
                    let depth = step.depth as usize;
                    let mut here = ALL;
                    if depth > 0 {
                        let (above, answer) = &self.way[depth - 1];
                        let turned = if step.right { 0 } else { !0u64 };
                        here = std::array::from_fn(|word| above[word] & (answer[word] ^ turned));
                    }
                    match &step.kind {
                        Kind::Split(ask) => {
                            let answer = match ask {
                                Ask::Compare(node) => compare(node),
                                Ask::Set(set) => member(set),
                            };
                            self.way[depth] = (here, answer);
                        }
                        Kind::Leaf(number) => {
                            let number = *number as usize;
                            let numbers = &mut self.numbers[number / LEAVES];
                            for (bit, bits) in numbers.bits.iter_mut().enumerate() {
                                if number >> bit & 1 == 1 {
                                    *bits = std::array::from_fn(|word| bits[word] | here[word]);
                                }
                            }
                            numbers.here =
                                std::array::from_fn(|word| numbers.here[word] | here[word]);
                        }
                    }
                }
            }
        }
    }
}
