//! What a shop wants to know of a customer, from events such as
//! `{"domain_userid": "ada", "event": "purchase", "order": {"total_cents": 12000}}`.

use std::process::ExitCode;

use keyloom_actors::handler::{ConfigError, Context, Fault, Features, Handler, State};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.loyalty]` of the topology.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Cents spent that make a customer silver, and gold.
    silver: u64,
    gold: u64,
}

/// The events it wants; all others are let through without effect.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Purchase {
        order: Order,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Order {
    total_cents: u64,
}

/// What is remembered per customer.
#[derive(Default, Serialize, Deserialize)]
struct Customer {
    orders: u64,
    spent_cents: u64,
}

impl State for Customer {}

/// One value serves all customers.
struct Loyalty {
    config: Config,
}

impl Handler for Loyalty {
    type Config = Config;
    type Event<'e> = Event;
    type State = Customer;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.gold <= config.silver {
            return Err(ConfigError("gold must be more than silver".to_owned()));
        }
        Ok(Self { config })
    }

    fn on_event(&self, customer: &mut Customer, event: Event, _: &mut Context<'_>) -> Result<(), Fault> {
        if let Event::Purchase { order } = event {
            let spent = customer.spent_cents.checked_add(order.total_cents);
            customer.spent_cents = spent.ok_or_else(|| Fault::Reject("the total is absurd".to_owned()))?;
            customer.orders += 1;
        }
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
        features.set("tier", tier);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<Loyalty>("loyalty").main()
}

#[cfg(test)]
mod tests {
    use keyloom_actors::handler::testing::HandlerTest;
    use serde_json::{Value, json};

    use super::*;

    fn purchase(total_cents: Value) -> Value {
        json!({ "domain_userid": "ada", "event": "purchase", "order": { "total_cents": total_cents } })
    }

    #[test]
    fn customers_rise() {
        let mut test = HandlerTest::of::<Loyalty>(json!({ "silver": 100, "gold": 200 }), &["domain_userid"]);
        for tier in ["bronze", "silver", "silver", "gold"] {
            test.event(purchase(json!(60))).applied();
            assert_eq!(test.features("ada")["tier"], tier);
        }
        test.event(json!({ "domain_userid": "ada", "event": "page_view" })).applied();
        assert_eq!(test.features("ada"), json!({ "orders": 4, "spent_cents": 240, "tier": "gold" }));
    }

    #[test]
    fn what_makes_no_sense_is_rejected() {
        let mut test = HandlerTest::of::<Loyalty>(json!({ "silver": 100, "gold": 200 }), &["domain_userid"]);
        test.event(purchase(json!(60))).applied();
        assert!(test.event(purchase(json!("sixty"))).rejected().contains("invalid type: string"));
        assert_eq!(test.event(purchase(json!(u64::MAX))).rejected(), "the total is absurd");
        assert_eq!(test.features("ada")["spent_cents"], 60);
        assert_eq!(HandlerTest::refused::<Loyalty>(json!({ "silver": 2, "gold": 1 })), "gold must be more than silver");
    }
}
