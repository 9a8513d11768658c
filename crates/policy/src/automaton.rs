//! The automaton that finds literals in a flow's data; see [its format](portcullis_proto::policy#contents).

use portcullis_proto::policy::NO_BASE;
use std::collections::{BTreeMap, HashSet, VecDeque};

/// A state, by its place in the double array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) base: u32,
    pub(crate) fail: usize,
    /// The literal that ends here, by its place among those given.
    pub(crate) content: Option<usize>,
    pub(crate) link: usize,
    pub(crate) byte: u8,
    pub(crate) depth: usize,
}

const FREE: State = State {
    base: NO_BASE,
    fail: 0,
    content: None,
    link: 0,
    byte: 0,
    depth: 0,
};

/// States that share all but the lowest byte of their places.
const BLOCK: usize = 256;
/// So many places are tried before the search no longer begins at the first free one.
const PATIENCE: usize = 64;

/// A node of the tree of all literals.
#[derive(Default)]
struct Node {
    children: BTreeMap<u8, usize>,
    content: Option<usize>,
}

/// The automaton that finds these literals, which are distinct and not empty. Without any it has no state.
pub(crate) fn build(contents: &[&[u8]]) -> Vec<State> {
    if contents.is_empty() {
        return Vec::new();
    }
    let tree = tree(contents);
    let mut array = DoubleArray {
        states: vec![FREE; BLOCK],
        is_used: vec![false; BLOCK],
        bases: HashSet::new(),
        first_free: 1,
    };
    array.is_used[0] = true;
    // Breadth first: what a state fails to is shallower, and so has its place already.
    let mut queue = VecDeque::from([(0, 0)]);
    while let Some((node, place)) = queue.pop_front() {
        let node: &Node = &tree[node];
        if node.children.is_empty() {
            continue;
        }
        let bytes: Vec<u8> = node.children.keys().copied().collect();
        let base = array.base(&bytes);
        array.states[place].base = u32::try_from(base).unwrap_or(NO_BASE);
        for (&byte, &child) in &node.children {
            let at = base ^ usize::from(byte);
            let fail = if place == 0 {
                0
            } else {
                array.next(array.states[place].fail, byte)
            };
            let failed = array.states[fail];
            array.is_used[at] = true;
            array.states[at] = State {
                base: NO_BASE,
                fail,
                content: tree[child].content,
                link: if failed.content.is_some() {
                    fail
                } else {
                    failed.link
                },
                byte,
                depth: array.states[place].depth + 1,
            };
            queue.push_back((child, at));
        }
    }
    array.states
}

fn tree(contents: &[&[u8]]) -> Vec<Node> {
    let mut tree = vec![Node::default()];
    for (number, content) in contents.iter().enumerate() {
        let mut at = 0;
        for &byte in *content {
            let next = tree.len();
            at = *tree[at].children.entry(byte).or_insert(next);
            if at == next {
                tree.push(Node::default());
            }
        }
        tree[at].content = Some(number);
    }
    tree
}

struct DoubleArray {
    states: Vec<State>,
    is_used: Vec<bool>,
    bases: HashSet<usize>,
    first_free: usize,
}

impl DoubleArray {
    /// A base that no state has, with a free place for each of these bytes.
    fn base(&mut self, bytes: &[u8]) -> usize {
        while self.is_used.get(self.first_free) == Some(&true) {
            self.first_free += 1;
        }
        let mut tried = 0;
        let mut place = self.first_free;
        loop {
            if self.states.len() <= place {
                self.states.resize(place / BLOCK * BLOCK + BLOCK, FREE);
                self.is_used.resize(self.states.len(), false);
            }
            if !self.is_used[place] {
                let base = place ^ usize::from(bytes[0]);
                let fits = |byte: &u8| !self.is_used[base ^ usize::from(*byte)];
                if bytes.iter().all(fits) && !self.bases.contains(&base) {
                    self.bases.insert(base);
                    return base;
                }
                tried += 1;
                if tried > PATIENCE {
                    // What is free before here hardly fits anything any more.
                    self.first_free = place;
                    tried = 0;
                }
            }
            place += 1;
        }
    }

    /// The state after a byte.
    fn next(&self, mut place: usize, byte: u8) -> usize {
        loop {
            let base = self.states[place].base;
            let next = usize::try_from(base).map_or(0, |base| base ^ usize::from(byte));
            match self.states.get(next) {
                Some(state) if base != NO_BASE && state.depth > 0 && state.byte == byte => {
                    return next;
                }
                _ if place == 0 => return 0,
                _ => place = self.states[place].fail,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where which literal ends, as the automaton tells.
    fn find(contents: &[&[u8]], text: &[u8]) -> Vec<(usize, usize)> {
        let array = DoubleArray {
            states: build(contents),
            is_used: Vec::new(),
            bases: HashSet::new(),
            first_free: 0,
        };
        let mut found = Vec::new();
        let mut place = 0;
        for (end, &byte) in (1..).zip(text) {
            place = array.next(place, byte);
            let mut at = place;
            while at != 0 {
                found.extend(array.states[at].content.map(|content| (end, content)));
                at = array.states[at].link;
            }
        }
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn it_finds_every_occurrence_of_every_literal_and_nothing_else(
            contents in prop::collection::hash_set("[abc]{1,6}", 1..30),
            text in "[abcd]{0,200}",
        ) {
            let contents: Vec<&[u8]> = contents.iter().map(String::as_bytes).collect();
            let text = text.as_bytes();
            let mut expected = Vec::new();
            for end in 1..=text.len() {
                let ends = |(_, content): &(usize, &&[u8])| text[..end].ends_with(content);
                expected.extend(contents.iter().enumerate().filter(ends).map(|(number, _)| (end, number)));
            }
            expected.sort_unstable();
            prop_assert_eq!(find(&contents, text), expected);
        }
    }

    #[test]
    fn ten_thousand_literals_fill_most_of_their_array() {
        let contents: Vec<Vec<u8>> = (0..10_000_u32)
            .map(|number| {
                number
                    .wrapping_mul(0x9E37_79B9)
                    .to_string()
                    .repeat(2)
                    .into_bytes()
            })
            .collect();
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let states = build(&contents);
        let used = states.iter().filter(|state| state.depth > 0).count();
        assert!(used * 10 > states.len() * 8, "{used} of {}", states.len());
    }
}
