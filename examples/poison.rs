//! A handler that fails on purpose, to watch supervision at work: it panics on every event of one user.
//!
//! That user's session restarts, each of its events is dead-lettered after three attempts, and nobody else notices:
//! see `keyloom_actor_restarts_total` and `keyloom_dead_letters_total` in /metrics.

use std::process::ExitCode;

use keyloom_actors::{
    event::EventRef,
    handler::{ConfigError, Context, Fault, Features, Handler, State},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.poison]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Whose events make it panic.
    user: String,
}

struct Poison {
    user: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Count {
    events: u64,
}

impl State for Count {}

impl Handler for Poison {
    type Config = Config;
    type Event<'e> = EventRef<'e>;
    type State = Count;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self { user: config.user })
    }

    fn on_event(&self, count: &mut Count, _: EventRef<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        count.events += 1;
        assert!(context.key != self.user, "this handler panics on purpose");
        Ok(())
    }

    fn features(&self, count: &Count, features: &mut Features<'_>) {
        features.set("event_count", &count.events);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<Poison>("poison").main()
}
