//! What is counted of the questions.

use crate::{
    clock::millis,
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    metrics::{IntrospectionOutcome, Metric},
    resolver::flight::Flight,
};

/// Notes how long a call took that has ended. The sum of it, by the second, is how many calls are under way.
pub(in crate::resolver) fn note_duration<H: Backend, W>(cb: &Callback<'_, H>, flight: &Flight<W>) {
    let took = millis(cb.now().since(flight.since));
    cb.host.record(Metric::IntrospectionMillis, took);
}

/// Counts a question for which no call was free, or which found no room to wait.
pub(in crate::resolver) fn overloaded<H: Backend>(cb: &Callback<'_, H>) -> NoVerdict {
    let why = NoVerdict::Overloaded;
    count_outcome(cb, why.outcome());
    why
}

/// Counts what came of asking MAS, if it counts as anything.
pub(in crate::resolver) fn count_outcome<H: Backend>(
    cb: &Callback<'_, H>,
    outcome: Option<IntrospectionOutcome>,
) {
    if let Some(outcome) = outcome {
        cb.host.count(Metric::Introspection(outcome));
    }
}
