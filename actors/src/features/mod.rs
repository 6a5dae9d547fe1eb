//! Declarative features: what a topology can ask of the events of a key without any code.
//!
//! Pure. [`FeatureSet`] is compiled once from [`Definition`]s and shared by all keys; [`FeatureState`] is what one key
//! remembers. No clock is read: events bring their time, and who reads says as of when. Everything a key can remember has
//! a named limit, whatever its events.
//!
//! - Time: the time of a key is that of its newest event, or of the reading if that is later. It never goes back.
//! - Late: an event older than the key's newest by more than `lateness` is counted, and changes nothing else.
//! - Exact: sums are integers, so recomputing gives the same bytes; what is approximate says so where it is defined.
//!
//! To follow an event: [`state`], [`set`], [`slot`], [`window`], and the family of the function.

mod decay;
mod decimal;
mod definition;
mod derived;
mod distinct;
mod edited;
mod expression;
mod hyperloglog;
mod interpreter;
mod moments;
mod path;
mod picked;
mod planning;
mod predicate;
mod recent;
mod scalar;
mod session;
mod set;
mod slot;
mod state;
mod syntax;
mod top_k;
mod typing;
mod value;
mod window;

#[cfg(test)]
mod tests;

pub use self::{
    decimal::{Decimal, SCALE_DEFAULT, SCALE_MAX},
    definition::{Definition, DefinitionProblem, FieldType, Function, Need, Settings, Window},
    distinct::{DISTINCT_DEFAULT, DISTINCT_MAX, DISTINCT_SLIDING_MAX},
    edited::{Edited, Stood},
    expression::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, LIST_MAX},
    hyperloglog::{PRECISION_DEFAULT, PRECISION_MAX, PRECISION_MIN, PRECISION_SLIDING_MAX},
    picked::{Changing, Picked},
    recent::{K_DEFAULT, K_MAX},
    scalar::TEXT_BYTES_MAX,
    session::{ENGAGED_RUNS_MAX, HEARTBEAT},
    set::{BUILT_IN, FEATURES_MAX, FeatureSet},
    state::{Applied, FeatureState},
    top_k::{TOP_CAPACITY_MAX, TOP_K_DEFAULT, TOP_K_MAX},
    value::Value,
    window::{TILES, WINDOW_MAX, WINDOW_MIN},
};
