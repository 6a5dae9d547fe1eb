//! Prices of what is put into a cart, from a service outside: the README's look-ups. Here a list in the topology stands in for
//! the service; `answer` is where a client of yours would be called.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use keyloom_actors::handler::{
    Answer, ConfigError, Context, Fault, Features, Handler, State, StateError,
    look_ups::{LOOK_UP_NAME_BYTES_MAX, LOOK_UPS_MAX},
    read_old,
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// The section `[handler.cart-prices]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Cents by SKU.
    prices: BTreeMap<String, u64>,
}

/// What stands in for a service.
struct Prices(BTreeMap<String, u64>);

impl Prices {
    async fn of(&self, sku: &str) -> Result<u64, String> {
        self.0.get(sku).copied().ok_or_else(|| format!("no price of {sku:?}"))
    }
}

struct CartPrices {
    prices: Prices,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    AddToCart {
        sku: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Default, Serialize, Deserialize)]
struct Cart {
    cents: u64,
    /// Pieces without a price.
    unpriced: u64,
    /// Pieces whose price has been asked for, by SKU: as many as there are open questions.
    asked: BTreeMap<String, u64>,
}

/// As it was in version 1, which did not count pieces.
#[derive(Deserialize)]
struct CartV1 {
    cents: u64,
    unpriced: u64,
    asked: BTreeSet<String>,
}

impl State for Cart {
    const VERSION: u32 = 2;

    fn upgrade(_from: u32, bytes: &[u8]) -> Result<Self, StateError> {
        let CartV1 { cents, unpriced, asked } = read_old(bytes)?;
        Ok(Self { cents, unpriced, asked: asked.into_iter().map(|sku| (sku, 1)).collect() })
    }
}

impl Handler for CartPrices {
    type Config = Config;
    type Event<'e> = Event;
    type State = Cart;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self { prices: Prices(config.prices) })
    }

    fn on_event(&self, cart: &mut Cart, event: Event, context: &mut Context<'_>) -> Result<(), Fault> {
        let Event::AddToCart { sku } = event else { return Ok(()) };
        if !(1..=LOOK_UP_NAME_BYTES_MAX).contains(&sku.len()) {
            return Err(Fault::Reject("a SKU has 1 to 64 bytes".to_owned()));
        }
        if let Some(pieces) = cart.asked.get_mut(&sku) {
            *pieces += 1; // its price is on its way
            return Ok(());
        }
        if cart.asked.len() == LOOK_UPS_MAX {
            return Err(Fault::Reject("too many prices are unknown".to_owned()));
        }
        context.look_up(&sku, &sku, Duration::from_secs(2))?; // its name, the question, how long it may take
        cart.asked.insert(sku, 1);
        Ok(())
    }

    // Runs beside the session: here a handler may wait.
    async fn answer(&self, _key: &str, _name: &str, question: &str) -> Result<serde_json::Value, String> {
        let sku: String = serde_json::from_str(question).map_err(|e| e.to_string())?;
        self.prices.of(&sku).await.map(Into::into)
    }

    fn on_answer(&self, cart: &mut Cart, answer: Answer<'_>, _: &mut Context<'_>) -> Result<(), Fault> {
        let pieces = cart.asked.remove(answer.name).unwrap_or(0);
        match answer.parse::<u64>() {
            Ok(Ok(cents)) => cart.cents = cart.cents.saturating_add(cents.saturating_mul(pieces)),
            _ => cart.unpriced += pieces, // an error, a panic, no answer within two seconds, or one that is no price
        }
        Ok(())
    }

    fn features(&self, cart: &Cart, features: &mut Features<'_>) {
        features.set("cents", &cart.cents);
        features.set("unpriced", &cart.unpriced);
        features.set("prices_asked", &cart.asked.len());
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<CartPrices>("cart-prices").main()
}

#[cfg(test)]
mod tests {
    use keyloom_actors::handler::testing::HandlerTest;
    use serde_json::{Value, json};

    use super::*;

    fn shop() -> HandlerTest {
        HandlerTest::of::<CartPrices>(json!({ "prices": {} }), &["domain_userid"])
    }

    fn add(sku: &str) -> Value {
        json!({ "domain_userid": "ada", "event": "add_to_cart", "sku": sku })
    }

    #[test]
    fn every_piece_gets_its_price_though_others_were_asked_meanwhile() {
        let mut test = shop();
        for sku in ["hat", "shoe", "hat", "sock"] {
            test.event(add(sku)).applied();
        }
        assert_eq!(test.questions("ada").len(), 3);
        test.answer("ada", "shoe", Ok(json!(5_000))).applied();
        test.answer("ada", "hat", Ok(json!(900))).applied();
        test.answer("ada", "sock", Err("no answer within 2s")).applied();
        assert_eq!(test.features("ada"), json!({ "cents": 6_800, "unpriced": 1, "prices_asked": 0 }));
        test.event(add("sock")).applied();
        test.answer("ada", "sock", Ok(json!("free"))).applied();
        assert_eq!(test.features("ada"), json!({ "cents": 6_800, "unpriced": 2, "prices_asked": 0 }));
    }

    #[test]
    fn a_cart_of_version_1_is_read_and_one_of_the_future_is_not() {
        let mut test = shop();
        test.stored("ada", 1, &json!({ "cents": 900, "unpriced": 0, "asked": ["hat"] })).expect("it is read");
        test.event(add("hat")).applied();
        assert_eq!(test.features("ada"), json!({ "cents": 900, "unpriced": 0, "prices_asked": 1 }));
        let newer = test.stored("eve", 3, &json!({ "cents": 900, "unpriced": 0, "asked": {} }));
        assert!(newer.is_err_and(|e| e.0.contains("version 3, this program knows those up to 2")));
    }

    #[test]
    fn questions_are_bounded() {
        let mut test = shop();
        (0..LOOK_UPS_MAX).for_each(|i| test.event(add(&format!("sku-{i}"))).applied());
        assert_eq!(test.event(add("hat")).rejected(), "too many prices are unknown");
        test.event(add("sku-0")).applied();
        for sku in ["", &"x".repeat(LOOK_UP_NAME_BYTES_MAX + 1)] {
            assert_eq!(test.event(add(sku)).rejected(), "a SKU has 1 to 64 bytes");
        }
        test.event(json!({ "domain_userid": "ada", "event": "page_view" })).applied();
    }
}
