//! A handler of your own: what a shop wants to know of a customer, from events that carry an `order` object.
//!
//! Run it with the topology beside the others: `cargo run --release --example loyalty -- run config/loyalty.toml`.
//! Everything that `keyloom` can do, this program can do too; it only knows one more handler.

use std::process::ExitCode;

use keyloom_actors::{
    event::EventRef,
    fields::FieldId,
    handler::{ConfigError, Context, Fault, Features, Handler, State},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.loyalty]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Cents spent that make a customer silver, and gold.
    silver: u64,
    gold: u64,
}

/// One handler serves every customer.
struct Loyalty {
    config: Config,
}

/// What is remembered per customer.
#[derive(Default, Serialize, Deserialize)]
struct Customer {
    orders: u64,
    spent_cents: u64,
    largest_order_cents: u64,
}

impl State for Customer {}

/// The part of an event that this handler reads.
#[derive(Deserialize)]
struct Purchase {
    order: Order,
}

#[derive(Deserialize)]
struct Order {
    total_cents: u64,
}

impl Handler for Loyalty {
    type Config = Config;
    type Event<'e> = EventRef<'e>;
    type State = Customer;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.gold <= config.silver {
            return Err(ConfigError("gold must be more than silver".to_owned()));
        }
        Ok(Self { config })
    }

    fn on_event(&self, customer: &mut Customer, event: EventRef<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
        if event.text(FieldId::Event).as_deref() != Some("purchase") {
            return Ok(());
        }
        // An order that cannot be read is dead-lettered with this reason, and the customer stays as he was.
        let Purchase { order } = event.parse()?;
        let spent = customer.spent_cents.checked_add(order.total_cents);
        customer.spent_cents = spent.ok_or_else(|| Fault::Reject("the total is absurd".to_owned()))?;
        customer.orders += 1;
        customer.largest_order_cents = customer.largest_order_cents.max(order.total_cents);
        Ok(())
    }

    fn features(&self, customer: &Customer, features: &mut Features<'_>) {
        let tier = match customer.spent_cents {
            spent if spent >= self.config.gold => "gold",
            spent if spent >= self.config.silver => "silver",
            _ => "bronze",
        };
        features.set("orders", &customer.orders);
        features.set("spent_cents", &customer.spent_cents);
        features.set("largest_order_cents", &customer.largest_order_cents);
        features.set("tier", tier);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<Loyalty>("loyalty").main()
}
