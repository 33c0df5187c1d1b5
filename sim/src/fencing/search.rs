//! Looks at every state that a model can come to, the nearest first.

use std::collections::{HashSet, VecDeque};
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

fn way_to<Step: Clone>(origins: &[Origin<Step>], mut at: usize, last: Step) -> Vec<Step> {
    let mut way = vec![last];
    while let Some((from, step)) = &origins[at] {
        way.push(step.clone());
        at = *from;
    }
    way.reverse();
    way
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
    let mut known = HashSet::from([mark_of(&start)]);
    let mut origins: Vec<Origin<M::Step>> = vec![None];
    let mut waiting = VecDeque::from([(start, 0_usize)]);
    while let Some((state, number)) = waiting.pop_front() {
        visit(&state);
        for (step, outcome) in model.steps(&state) {
            match outcome {
                Err(promise) => {
                    let broken = Some((way_to(&origins, number, step), promise));
                    return Found { states: origins.len(), broken };
                }
                Ok(next) if known.insert(mark_of(&next)) => {
                    waiting.push_back((next, origins.len()));
                    origins.push(Some((number, step)));
                    assert!(origins.len() <= most, "more than {most} states");
                }
                Ok(_) => {}
            }
        }
    }
    Found { states: origins.len(), broken: None }
}
