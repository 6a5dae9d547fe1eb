//! A handler that ends the process on purpose, to watch the engine find out why: it aborts on events that say `abort`, takes
//! memory on events that say `grow` until there is none, never comes back from events that say `hang`, and leaves a state that
//! nobody can read again on events that say `spoil`.
//!
//! Run it where something starts it again after an abort. After a few deaths the event is a dead letter with reason `killer`,
//! and the other one, with reason `stuck`, costs one restart that the engine does by itself.

use std::{hint, process::ExitCode, thread, time::Duration};

use keyloom_actors::{
    event::EventRef,
    handler::{ConfigError, Context, Fault, Features, Handler, State},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Deserializer, Serialize};

/// What `grow` takes at once, and never touches: addresses run out before memory does.
const GROWTH_BYTES: usize = 64 << 20;

/// The section `[handler.killer]`: it has no keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

struct Killer;

#[derive(Default, Serialize, Deserialize)]
struct Count {
    events: u64,
    spoiled: Spoiled,
}

/// Whether the state was spoiled. The process that reads so ends.
#[derive(Default, Serialize)]
struct Spoiled(bool);

impl<'de> Deserialize<'de> for Spoiled {
    fn deserialize<D: Deserializer<'de>>(stored: D) -> Result<Self, D::Error> {
        if bool::deserialize(stored)? {
            std::process::abort();
        }
        Ok(Self(false))
    }
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
            Some("grow") => {
                let mut held = Vec::new();
                loop {
                    held.push(hint::black_box(Vec::<u8>::with_capacity(GROWTH_BYTES)));
                }
            }
            Some("hang") => loop {
                thread::sleep(Duration::from_secs(1)); // an endless loop, that leaves the machine to others
            },
            what => {
                count.events += 1;
                count.spoiled.0 |= what == Some("spoil");
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
