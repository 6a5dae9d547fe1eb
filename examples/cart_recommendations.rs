//! Cart recommendations for a shop: what a shopper looked at and has in the cart, whether a coupon is due, and what to
//! recommend. Each event of interest becomes a row of the table `recommendations`, with what was known *before* it, and so
//! does a cart that was left alone. Not here: models. What is recommended is what was looked at last and not taken.
//!
//! `cargo run --release -p keyloom-examples --example cart_recommendations -- run config/cart-recommendations.toml`

use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
};

use keyloom_actors::{
    handler::{
        ConfigError, Context, Fault, Features, Handler, State,
        row::{EmittedTable, Row},
    },
    timestamp::{SECOND, Timestamp},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

/// Longest name of a product, in bytes.
const PRODUCT_BYTES_MAX: usize = 128;
/// Different products in a cart. A limit, as every collection in a state needs one: it is written with every checkpoint.
const CART_PRODUCTS_MAX: usize = 100;
/// Pieces of one product in a cart.
const QUANTITY_MAX: u32 = 1_000;
/// What `viewed_max` may be.
const VIEWED_MAX: usize = 100;
/// Products in one recommendation.
const RECOMMENDED_MAX: usize = 5;

/// Fires when a cart has not changed for `abandoned_after_minutes`.
const ABANDONED: &str = "abandoned";
/// Fires when the shopper may get a coupon again.
const COUPON_PAUSE: &str = "coupon pause";

/// The section `[handler.cart-recommendations]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Products that are remembered as looked at, the latest ones.
    viewed_max: usize,
    /// A cart is left alone when it has not changed for this long.
    abandoned_after_minutes: i64,
    /// A coupon is due for a cart of this value or more ...
    coupon_from_cents: i64,
    /// ... if the shopper has bought nothing for so many days.
    coupon_pause_days: i64,
}

struct CartRecommendations {
    config: Config,
}

/// The events of interest; others are let through without effect.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    ProductView {
        product: String,
    },
    AddToCart {
        product: String,
        #[serde(default = "one")]
        quantity: u32,
        price_cents: u32,
    },
    /// Without a quantity, all of the product.
    RemoveFromCart {
        product: String,
        quantity: Option<u32>,
    },
    /// 0 removes the product.
    SetQuantity {
        product: String,
        quantity: u32,
    },
    Purchase,
    #[serde(other)]
    Other,
}

fn one() -> u32 {
    1
}

/// What is remembered per shopper.
#[derive(Default, Serialize, Deserialize)]
struct Shopper {
    /// Latest first, each product once.
    viewed: VecDeque<String>,
    cart: BTreeMap<String, Item>,
    cart_abandoned: bool,
    /// Bought something a short while ago.
    coupon_paused: bool,
    views: i64,
    purchases: i64,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Item {
    quantity: u32,
    price_cents: u32,
}

impl State for Shopper {}

/// A row of the table. All but the first three columns say what was known before the event.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Recommendation {
    /// The event; `cart_abandoned` when none came for a while.
    reason: String,
    /// What it is about.
    product: Option<String>,
    /// When it happened. Of an abandoned cart: when that was found.
    at: Timestamp,
    /// Looked at and not in the cart, the latest first.
    recommended: Vec<String>,
    cart_products: i64,
    cart_cents: i64,
    coupon_eligible: bool,
    views: i64,
    purchases: i64,
}

impl Row for Recommendation {
    const TABLE: &'static str = "recommendations";
    const TIMES: &'static [&'static str] = &["at"];
}

impl Shopper {
    fn look_at(&mut self, product: String, max: usize) {
        self.viewed.retain(|other| *other != product);
        self.viewed.push_front(product);
        self.viewed.truncate(max);
        self.views += 1;
    }

    fn cart_quantity(&self) -> i64 {
        self.cart.values().map(|item| i64::from(item.quantity)).sum()
    }

    fn cart_cents(&self) -> i64 {
        self.cart.values().map(|item| i64::from(item.quantity) * i64::from(item.price_cents)).sum()
    }

    fn recommended(&self) -> Vec<String> {
        let missing = self.viewed.iter().filter(|product| !self.cart.contains_key(*product));
        missing.take(RECOMMENDED_MAX).cloned().collect()
    }
}

impl CartRecommendations {
    /// The rule: a cart that is worth enough, of somebody who has bought nothing for a while.
    fn coupon_eligible(&self, shopper: &Shopper) -> bool {
        !shopper.coupon_paused && shopper.cart_cents() >= self.config.coupon_from_cents
    }

    fn emit(
        &self,
        shopper: &Shopper,
        reason: &str,
        product: Option<&str>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        context.emit(&Recommendation {
            reason: reason.to_owned(),
            product: product.map(str::to_owned),
            at: context.event_time,
            recommended: shopper.recommended(),
            cart_products: shopper.cart.len() as i64,
            cart_cents: shopper.cart_cents(),
            coupon_eligible: self.coupon_eligible(shopper),
            views: shopper.views,
            purchases: shopper.purchases,
        })
    }

    /// After every change of the cart: it is not left alone now, and may be later.
    fn watch_cart(&self, shopper: &mut Shopper, context: &mut Context<'_>) -> Result<(), Fault> {
        shopper.cart_abandoned = false;
        if shopper.cart.is_empty() {
            context.cancel_timer(ABANDONED);
            return Ok(());
        }
        set_or_extend(context, ABANDONED, self.config.abandoned_after_minutes * 60 * SECOND)
    }

    /// Leaves so many of a product in the cart. What is not in it cannot become more: its price is not known.
    fn leave(
        &self,
        shopper: &mut Shopper,
        product: &str,
        quantity: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        match shopper.cart.get_mut(product) {
            None => return Ok(()),
            Some(_) if quantity == 0 => drop(shopper.cart.remove(product)),
            Some(item) => item.quantity = quantity,
        }
        self.watch_cart(shopper, context)
    }
}

/// Sets a timer for so long after the event. An event that comes late does not take back what a newer one has set.
fn set_or_extend(context: &mut Context<'_>, timer: &str, after: i64) -> Result<(), Fault> {
    let due = Timestamp(context.event_time.0 + after);
    if context.timer(timer).is_none_or(|set| set < due) {
        context.set_timer(timer, due)?;
    }
    Ok(())
}

fn check(product: &str) -> Result<(), Fault> {
    match product.len() {
        1..=PRODUCT_BYTES_MAX => Ok(()),
        bytes => Err(Fault::Reject(format!("product has {bytes} bytes; 1 to {PRODUCT_BYTES_MAX} are allowed"))),
    }
}

impl Handler for CartRecommendations {
    type Config = Config;
    type Event<'e> = Event;
    type State = Shopper;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if !(1..=VIEWED_MAX).contains(&config.viewed_max) {
            return Err(ConfigError(format!("viewed_max must be 1 to {VIEWED_MAX}")));
        }
        for (name, value, max) in [
            ("abandoned_after_minutes", config.abandoned_after_minutes, 60 * 24 * 365),
            ("coupon_pause_days", config.coupon_pause_days, 3_650),
            ("coupon_from_cents", config.coupon_from_cents, i64::MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(ConfigError(format!("{name} must be 1 to {max}")));
            }
        }
        Ok(Self { config })
    }

    fn tables() -> Vec<EmittedTable> {
        vec![EmittedTable::of::<Recommendation>()]
    }

    // Each arm checks first, then emits what was known, then changes: a rejected event leaves nothing behind.
    fn on_event(&self, shopper: &mut Shopper, event: Event, context: &mut Context<'_>) -> Result<(), Fault> {
        match event {
            Event::ProductView { product } => {
                check(&product)?;
                self.emit(shopper, "product_view", Some(&product), context)?;
                shopper.look_at(product, self.config.viewed_max);
            }
            Event::AddToCart { product, quantity, price_cents } => {
                check(&product)?;
                let old = shopper.cart.get(&product).copied().unwrap_or_default();
                let sum = old.quantity.saturating_add(quantity);
                if quantity == 0 || sum > QUANTITY_MAX {
                    return Err(Fault::Reject(format!("{sum} of one product; 1 to {QUANTITY_MAX} are allowed")));
                }
                if old.quantity == 0 && shopper.cart.len() >= CART_PRODUCTS_MAX {
                    return Err(Fault::Reject(format!("the cart has {CART_PRODUCTS_MAX} products already")));
                }
                self.emit(shopper, "add_to_cart", Some(&product), context)?;
                shopper.cart.insert(product, Item { quantity: sum, price_cents }); // the newest price counts
                self.watch_cart(shopper, context)?;
            }
            Event::RemoveFromCart { product, quantity } => {
                let left = shopper.cart.get(&product).map_or(0, |item| item.quantity);
                let left = quantity.map_or(0, |quantity| left.saturating_sub(quantity));
                self.emit(shopper, "remove_from_cart", Some(&product), context)?;
                self.leave(shopper, &product, left, context)?;
            }
            Event::SetQuantity { product, quantity } => {
                if quantity > QUANTITY_MAX {
                    return Err(Fault::Reject(format!("{quantity} of one product; {QUANTITY_MAX} are allowed")));
                }
                self.emit(shopper, "set_quantity", Some(&product), context)?;
                self.leave(shopper, &product, quantity, context)?;
            }
            Event::Purchase => {
                self.emit(shopper, "purchase", None, context)?;
                shopper.cart.clear();
                shopper.purchases += 1;
                shopper.coupon_paused = true;
                set_or_extend(context, COUPON_PAUSE, self.config.coupon_pause_days * 86_400 * SECOND)?;
                self.watch_cart(shopper, context)?;
            }
            Event::Other => {}
        }
        Ok(())
    }

    fn on_timer(&self, shopper: &mut Shopper, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        match timer {
            ABANDONED => {
                self.emit(shopper, "cart_abandoned", None, context)?;
                shopper.cart_abandoned = true;
            }
            COUPON_PAUSE => shopper.coupon_paused = false,
            _ => {} // of an older version of this handler
        }
        Ok(())
    }

    fn features(&self, shopper: &Shopper, features: &mut Features<'_>) {
        let quantities: BTreeMap<_, _> = shopper.cart.iter().map(|(product, item)| (product, item.quantity)).collect();
        features.set("recently_viewed", &shopper.viewed);
        features.set("cart", &quantities);
        features.set("cart_quantity", &shopper.cart_quantity());
        features.set("cart_cents", &shopper.cart_cents());
        features.set("cart_abandoned", &shopper.cart_abandoned);
        features.set("coupon_eligible", &self.coupon_eligible(shopper));
        features.set("recommended", &shopper.recommended());
        features.set("views", &shopper.views);
        features.set("purchases", &shopper.purchases);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<CartRecommendations>("cart-recommendations").main()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyloom_actors::handler::testing::HandlerTest;
    use serde_json::{Value, json};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn config() -> Value {
        json!({ "viewed_max": 3, "abandoned_after_minutes": 30, "coupon_from_cents": 5_000, "coupon_pause_days": 7 })
    }

    fn shop() -> HandlerTest {
        HandlerTest::of::<CartRecommendations>(config(), &["domain_userid"])
    }

    fn view(product: &str) -> Value {
        json!({ "domain_userid": "ada", "event": "product_view", "product": product })
    }

    fn add(product: &str, quantity: u32, price_cents: u32) -> Value {
        json!({ "domain_userid": "ada", "event": "add_to_cart", "product": product, "quantity": quantity,
                "price_cents": price_cents })
    }

    fn purchase() -> Value {
        json!({ "domain_userid": "ada", "event": "purchase" })
    }

    fn feature(test: &HandlerTest, name: &str) -> Value {
        test.features("ada")[name].clone()
    }

    #[test]
    fn the_latest_products_are_remembered_each_once() {
        let mut test = shop();
        for product in ["hat", "shoes", "hat"] {
            test.event(view(product)).applied();
        }
        assert_eq!(feature(&test, "recently_viewed"), json!(["hat", "shoes"]));
        for product in ["scarf", "gloves"] {
            test.event(view(product)).applied();
        }
        assert_eq!(feature(&test, "recently_viewed"), json!(["gloves", "scarf", "hat"]));
        assert_eq!(feature(&test, "views"), 5);
    }

    #[test]
    fn a_cart_is_what_was_put_in_and_taken_out() {
        let mut test = shop();
        test.event(add("hat", 2, 1_000)).applied();
        test.event(json!({ "domain_userid": "ada", "event": "add_to_cart", "product": "shoes", "price_cents": 500 }))
            .applied(); // one
        test.event(add("hat", 1, 1_200)).applied();
        assert_eq!(feature(&test, "cart"), json!({ "hat": 3, "shoes": 1 }));
        assert_eq!((feature(&test, "cart_quantity"), feature(&test, "cart_cents")), (json!(4), json!(4_100)));

        let change = |event: &str, quantity: Value| json!({ "domain_userid": "ada", "event": event, "product": "hat", "quantity": quantity });
        test.event(change("remove_from_cart", json!(1))).applied();
        assert_eq!(feature(&test, "cart")["hat"], 2);
        test.event(change("set_quantity", json!(9))).applied();
        assert_eq!(feature(&test, "cart")["hat"], 9);
        test.event(change("remove_from_cart", Value::Null)).applied();
        test.event(change("set_quantity", json!(2))).applied(); // it is gone
        assert_eq!(feature(&test, "cart"), json!({ "shoes": 1 }));
        test.event(purchase()).applied();
        assert_eq!((feature(&test, "cart"), feature(&test, "purchases")), (json!({}), json!(1)));
    }

    #[test]
    fn a_row_says_what_was_known_before_its_event() {
        let mut test = shop();
        test.event(view("hat")).applied();
        test.event(view("shoes")).applied();
        test.event(add("shoes", 1, 6_000)).applied();
        test.event(json!({ "domain_userid": "ada", "event": "page_view" })).applied(); // of no interest
        test.event(purchase()).applied();
        let rows = test.rows::<Recommendation>();
        let reasons: Vec<_> = rows.iter().map(|row| (row.reason.as_str(), row.product.as_deref())).collect();
        let expected = [
            ("product_view", Some("hat")),
            ("product_view", Some("shoes")),
            ("add_to_cart", Some("shoes")),
            ("purchase", None),
        ];
        assert_eq!(reasons, expected);
        assert!(rows[0].recommended.is_empty(), "nothing was known");
        let before_adding = &rows[2];
        assert_eq!(
            (&before_adding.recommended[..], before_adding.cart_cents),
            (&["shoes".into(), "hat".into()][..], 0)
        );
        let before_buying = &rows[3];
        assert_eq!((&before_buying.recommended[..], before_buying.cart_cents), (&["hat".into()][..], 6_000));
        assert!(before_buying.coupon_eligible && before_buying.purchases == 0);
    }

    #[test]
    fn a_coupon_is_for_a_full_cart_and_not_soon_after_a_purchase() {
        let mut test = shop();
        test.event(add("hat", 4, 1_000)).applied();
        assert_eq!(feature(&test, "coupon_eligible"), false);
        test.event(add("hat", 1, 1_000)).applied();
        assert_eq!(feature(&test, "coupon_eligible"), true);
        test.event(purchase()).applied();
        test.event(add("hat", 9, 1_000)).applied();
        assert_eq!(feature(&test, "coupon_eligible"), false, "bought just now");

        // A purchase that is heard of late does not shorten the pause.
        let mut late = purchase();
        late["collector_tstamp"] = test.ago(3 * DAY).into();
        test.event(late).applied();
        test.event(add("hat", 9, 1_000)).applied();
        test.advance(7 * DAY - MINUTE);
        assert_eq!(feature(&test, "coupon_eligible"), false);
        test.advance(MINUTE);
        assert_eq!(feature(&test, "coupon_eligible"), true, "the pause is over, without an event");
    }

    #[test]
    fn a_cart_that_is_left_alone_is_found_once() {
        let mut test = shop();
        test.event(view("shoes")).applied();
        test.event(add("hat", 1, 1_000)).applied();
        test.advance(20 * MINUTE);
        test.event(add("hat", 1, 1_000)).applied();
        test.event(view("scarf")).applied();
        assert_eq!(test.due_in("ada", ABANDONED), Some(30 * MINUTE));
        test.rows::<Recommendation>();
        test.advance(DAY);
        let rows = test.rows::<Recommendation>();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].reason.as_str(), rows[0].cart_cents), ("cart_abandoned", 2_000));
        assert_eq!(rows[0].recommended, ["scarf", "shoes"]);
        assert_eq!(rows[0].at.to_rfc3339(), "2026-01-01T00:50:00.000000Z", "when it was due, not when it fired");
        assert_eq!(feature(&test, "cart_abandoned"), true);

        test.event(add("hat", 1, 1_000)).applied();
        assert_eq!(feature(&test, "cart_abandoned"), false);
        test.event(purchase()).applied();
        assert_eq!(test.due_in("ada", ABANDONED), None, "an empty cart is not left alone");
    }

    #[test]
    fn what_makes_no_sense_or_has_no_end_is_rejected() {
        let mut test = shop();
        for n in 0..CART_PRODUCTS_MAX {
            test.event(add(&format!("p{n}"), 1, 1)).applied();
        }
        assert!(test.event(add("one more", 1, 1)).rejected().contains("100 products already"));
        test.event(add("p1", QUANTITY_MAX - 1, 1)).applied();
        assert!(test.event(add("p1", u32::MAX, 1)).rejected().contains("1 to 1000"));
        assert!(test.event(add("p2", 0, 1)).rejected().contains("1 to 1000"));
        assert!(test.event(view(&"x".repeat(PRODUCT_BYTES_MAX + 1))).rejected().contains("129 bytes"));
        assert!(test.event(view("")).rejected().contains("0 bytes"));
        let reason = test.event(json!({ "domain_userid": "ada", "event": "add_to_cart", "product": "hat" })).rejected();
        assert!(reason.contains("missing field `price_cents`"), "{reason}");
        assert_eq!(feature(&test, "cart_quantity"), CART_PRODUCTS_MAX as i64 - 1 + i64::from(QUANTITY_MAX));
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused() {
        for (name, value) in
            [("viewed_max", 0), ("viewed_max", 101), ("coupon_pause_days", 0), ("coupon_from_cents", -1)]
        {
            let mut config = config();
            config[name] = value.into();
            assert!(HandlerTest::refused::<CartRecommendations>(config).contains(name));
        }
    }
}
