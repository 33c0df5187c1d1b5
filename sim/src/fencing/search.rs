//! Looks at every state that a model can come to, the nearest first.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What may happen in a state, and what comes of each step; an error is a promise that is broken.
pub type Steps<Step, State> = Vec<(Step, Result<State, String>)>;

/// Something that begins somewhere and goes on in steps.
pub trait Model {
    /// All that there is at a moment.
    type State: Clone + Eq + Hash + Debug;
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
    visit(&start);
    // By state the step that led to it first, and from which one.
    let mut order = vec![(start.clone(), None::<(usize, M::Step)>)];
    let mut known = HashSet::from([start]);
    let mut next = 0;
    while next < order.len() {
        for (step, outcome) in model.steps(&order[next].0) {
            match outcome {
                Err(promise) => {
                    let mut way = vec![step];
                    let mut at = next;
                    while let Some((from, step)) = &order[at].1 {
                        way.push(step.clone());
                        at = *from;
                    }
                    way.reverse();
                    return Found { states: order.len(), broken: Some((way, promise)) };
                }
                Ok(state) if !known.contains(&state) => {
                    visit(&state);
                    known.insert(state.clone());
                    order.push((state, Some((next, step))));
                    assert!(order.len() <= most, "more than {most} states");
                }
                Ok(_) => {}
            }
        }
        next += 1;
    }
    Found { states: order.len(), broken: None }
}
