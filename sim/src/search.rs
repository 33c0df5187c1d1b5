//! Looks at every state that a model can come to, the nearest first.
//!
//! - A promise of safety is broken by a step: that step is an error.
//! - A promise of progress is broken by a state that is not settled, and from which no way of steps
//!   that help leads to one that is. That is asked once all states are known.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What may happen in a state, and what comes of each step; an error is a promise that is broken.
pub type Steps<Step, State> = Vec<(Step, Result<State, String>)>;

/// Something that begins somewhere and goes on in steps.
pub trait Model {
    /// All that there is at a moment.
    type State: Hash + Debug;
    /// What may happen next.
    type Step: Clone + Debug;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// Everything that may happen in a state.
    fn steps(&self, state: &Self::State) -> Steps<Self::Step, Self::State>;

    /// Whether nobody waits for anything in a state. A model that promises no progress says so of
    /// all.
    fn is_settled(&self, _state: &Self::State) -> bool {
        true
    }

    /// Whether progress may count on a step. It may not on a failure, nor on what users do.
    fn helps(&self, _step: &Self::Step) -> bool {
        true
    }
}

/// What a search has found.
#[derive(Debug)]
pub struct Found<Step> {
    /// Different states that were looked at.
    pub states: usize,
    /// The shortest way to a broken promise, and which one.
    pub broken: Option<(Vec<Step>, String)>,
}

/// How a state was come to first: from which one, and how.
type Origin<Step> = Option<(usize, Step)>;

/// 128 bits of a state: that two of some ten million states have the same is less likely than a
/// fault of this machine.
fn mark_of(state: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

fn way_to<Step: Clone>(origins: &[Origin<Step>], mut at: usize, last: Option<Step>) -> Vec<Step> {
    let mut way = Vec::from_iter(last);
    while let Some((from, step)) = &origins[at] {
        way.push(step.clone());
        at = *from;
    }
    way.reverse();
    way
}

/// Which states lead to a settled one.
struct Progress {
    /// By state whether a way to a settled one is known.
    leads: Vec<bool>,
    /// Steps that help, out of states that are not settled: from, to.
    edges: Vec<(u32, u32)>,
}

impl Progress {
    fn note(&mut self, from: usize, to: usize) {
        let number = |of: usize| u32::try_from(of).expect("a search has fewer than 2^32 states");
        self.edges.push((number(from), number(to)));
    }

    /// The nearest state that nothing helps.
    fn first_stuck(mut self) -> Option<usize> {
        // Ways lead away from the start, mostly: from the far end few rounds are needed.
        let mut has_grown = true;
        while has_grown {
            has_grown = false;
            let leads = &mut self.leads;
            for (from, to) in self.edges.iter().rev() {
                if leads[*to as usize] && !leads[*from as usize] {
                    leads[*from as usize] = true;
                    has_grown = true;
                }
            }
        }
        self.leads.iter().position(|leads| !leads)
    }
}

/// Looks at all states, or until a promise is broken. `visit` sees each state once.
///
/// # Panics
/// When there are more than `most` states: the model has no end, or needs another bound.
pub fn search<M: Model>(
    model: &M,
    most: usize,
    mut visit: impl FnMut(&M::State),
) -> Found<M::Step> {
    let start = model.start();
    let mut known = HashMap::from([(mark_of(&start), 0)]);
    let mut origins: Vec<Origin<M::Step>> = vec![None];
    let mut waiting = VecDeque::from([(start, 0_usize)]);
    let mut progress = Progress { leads: Vec::new(), edges: Vec::new() };
    while let Some((state, number)) = waiting.pop_front() {
        visit(&state);
        let is_settled = model.is_settled(&state);
        progress.leads.push(is_settled);
        for (step, outcome) in model.steps(&state) {
            let next = match outcome {
                Ok(next) => next,
                Err(promise) => {
                    let way = way_to(&origins, number, Some(step));
                    return Found { states: origins.len(), broken: Some((way, promise)) };
                }
            };
            let helps = !is_settled && model.helps(&step);
            let to = *known.entry(mark_of(&next)).or_insert(origins.len());
            if to == origins.len() {
                waiting.push_back((next, to));
                origins.push(Some((number, step)));
                assert!(origins.len() <= most, "more than {most} states");
            }
            if helps {
                progress.note(number, to);
            }
        }
    }
    let stuck = |at| (way_to(&origins, at, None), "who waits here waits for ever".to_owned());
    Found { states: origins.len(), broken: progress.first_stuck().map(stuck) }
}
