//! A handler that ends the process on purpose, to watch the engine find out why: it aborts on events that say `abort`, and
//! never comes back from events that say `hang`.
//!
//! Run it where something starts it again after an abort. After a few deaths the event is a dead letter with reason `killer`,
//! and the other one, with reason `stuck`, costs one restart that the engine does by itself.

use std::{process::ExitCode, thread, time::Duration};

use keyloom_actors::{
    event::EventRef,
    handler::{ConfigError, Context, Fault, Features, Handler, State},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.killer]`: it has no keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

struct Killer;

#[derive(Default, Serialize, Deserialize)]
struct Count {
    events: u64,
}

impl State for Count {}

impl Handler for Killer {
    type Config = Config;
    type Event<'e> = EventRef<'e>;
    type State = Count;

    fn new(_: Config) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn on_event(&self, count: &mut Count, event: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
        match event.value_named("do").and_then(|value| value.as_str()).as_deref() {
            Some("abort") => std::process::abort(),
            Some("hang") => loop {
                thread::sleep(Duration::from_secs(1)); // an endless loop, that leaves the machine to others
            },
            _ => {
                count.events += 1;
                Ok(())
            }
        }
    }

    fn features(&self, count: &Count, features: &mut Features<'_>) {
        features.set("event_count", &count.events);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<Killer>("killer").main()
}
