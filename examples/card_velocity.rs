//! A fraud rule: too many payments, or too much money, on one card within ten minutes. The key is the card; money is whole
//! cents. A card that becomes suspicious gets a row in the table `alerts`; its owner then has a while to verify the
//! payments; a quiet period ends the suspicion.
//!
//! **Time** is that of the events. A payment that comes late still counts if it belongs to the ten minutes before the newest
//! payment; one that is older counts in `late_payments` and in nothing else: windows that have passed are not judged again.
//! A payment whose clock runs ahead counts as of when it was stored, so it cannot push the window past those to come. Timers
//! go by event time, though: after such a payment a suspicion may end early, until the next payment that is suspicious.
//!
//! `cargo run --release -p keyloom-examples --example card_velocity -- run config/card-velocity.toml`

use std::{collections::VecDeque, process::ExitCode};

use keyloom_actors::{
    handler::{
        ConfigError, Context, Fault, Features, Handler, State,
        row::{EmittedTable, Row},
    },
    timestamp::{SECOND, Timestamp},
};
use keyloom_engine::Engine;
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60 * SECOND;
/// How far the window reaches back. A constant, because features are named after it.
const WINDOW: i64 = 10 * MINUTE;
/// Payments are counted per so much time, and leave the window together: however many there are, 61 counts are kept.
const SLICE: i64 = 10 * SECOND;
/// The largest payment: 10 million. Larger ones are mistakes.
const AMOUNT_CENTS_MAX: i64 = 1_000_000_000;

/// Fires when a suspicious card has had no payment for `quiet_minutes`.
const QUIET: &str = "quiet";
/// Fires when the owner has not verified the payments within `verify_minutes`.
const VERIFICATION: &str = "verification";
/// Fires when the last payment has left the window, so that its features go back to 0 without an event.
const WINDOW_EMPTY: &str = "window empty";

/// The section `[handler.card-velocity]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// More payments than this within ten minutes are suspicious ...
    payments_max: i64,
    /// ... and so is more money.
    spent_max_cents: i64,
    /// A suspicious card is so no longer after this long without a payment.
    quiet_minutes: i64,
    /// The owner has this long to verify.
    verify_minutes: i64,
}

struct CardVelocity {
    config: Config,
}

/// The events of interest; others are let through without effect.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Payment {
        amount_cents: i64,
    },
    /// The owner says that the payments were his own.
    Verified,
    #[serde(other)]
    Other,
}

/// What is remembered per card.
#[derive(Default, Serialize, Deserialize)]
struct Card {
    /// Time of the newest payment.
    newest: Timestamp,
    /// In order of their times, the oldest first.
    window: VecDeque<Slice>,
    payments: i64,
    late_payments: i64,
    suspicious_since: Option<Timestamp>,
    verification: Verification,
    alerts: i64,
}

impl State for Card {}

/// Payments of one slice of time.
#[derive(Serialize, Deserialize)]
struct Slice {
    begin: Timestamp,
    payments: i64,
    cents: i64,
}

impl Slice {
    /// When it does not count any more.
    fn leaves_window(&self) -> Timestamp {
        leaves_window(self.begin)
    }
}

fn leaves_window(begin: Timestamp) -> Timestamp {
    Timestamp(begin.0 + SLICE + WINDOW)
}

/// Of the newest alert.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verification {
    #[default]
    NotAsked,
    Pending,
    Verified,
    /// The deadline has passed.
    Expired,
}

/// A row of the table.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Alert {
    /// `too_many_payments`, `too_much_money`; `not_verified` when the deadline has passed.
    kind: String,
    at: Timestamp,
    /// The window, with the payment that raised the alert, and without it.
    payments_10m: i64,
    spent_10m: i64,
    payments_10m_before: i64,
    spent_10m_before: i64,
    /// All payments of the card before.
    payments_before: i64,
}

impl Row for Alert {
    const TABLE: &'static str = "alerts";
    const TIMES: &'static [&'static str] = &["at"];
}

impl Card {
    /// Payments and cents within the window that ends with the newest payment.
    fn window(&self) -> (i64, i64) {
        let add = |(payments, cents): (i64, i64), slice: &Slice| {
            (payments.saturating_add(slice.payments), cents.saturating_add(slice.cents))
        };
        self.window.iter().fold((0, 0), add)
    }

    /// Counts a payment; `false` when it is too late for the window.
    fn count(&mut self, time: Timestamp, cents: i64) -> bool {
        self.payments += 1;
        self.newest = self.newest.max(time);
        let newest = self.newest;
        while self.window.front().is_some_and(|oldest| oldest.leaves_window() <= newest) {
            self.window.pop_front();
        }
        let begin = Timestamp(time.0 - time.0.rem_euclid(SLICE));
        if leaves_window(begin) <= newest {
            self.late_payments += 1;
            return false;
        }
        let at = self.window.partition_point(|slice| slice.begin < begin);
        match self.window.get_mut(at).filter(|slice| slice.begin == begin) {
            Some(slice) => {
                slice.payments += 1;
                slice.cents = slice.cents.saturating_add(cents);
            }
            None => self.window.insert(at, Slice { begin, payments: 1, cents }),
        }
        true
    }
}

impl CardVelocity {
    fn payment(&self, card: &mut Card, cents: i64, context: &mut Context<'_>) -> Result<(), Fault> {
        if !(1..=AMOUNT_CENTS_MAX).contains(&cents) {
            return Err(Fault::Reject(format!("amount_cents is {cents}; 1 to {AMOUNT_CENTS_MAX} are allowed")));
        }
        let time = context.event_time.min(context.now);
        let (payments_before, before) = (card.payments, card.window());
        if !card.count(time, cents) {
            return Ok(());
        }
        if let Some(last) = card.window.back() {
            context.set_timer(WINDOW_EMPTY, last.leaves_window())?;
        }
        let (payments, spent) = card.window();
        let kind = if payments > self.config.payments_max {
            Some("too_many_payments")
        } else {
            (spent > self.config.spent_max_cents).then_some("too_much_money")
        };
        let was_suspicious = card.suspicious_since.is_some();
        if was_suspicious || kind.is_some() {
            context.set_timer(QUIET, Timestamp(card.newest.0 + self.config.quiet_minutes * MINUTE))?;
        }
        let Some(kind) = kind.filter(|_| !was_suspicious) else { return Ok(()) };
        card.suspicious_since = Some(time);
        card.verification = Verification::Pending;
        card.alerts += 1;
        context.set_timer(VERIFICATION, Timestamp(card.newest.0 + self.config.verify_minutes * MINUTE))?;
        context.emit(&alert(kind, time, (payments, spent), before, payments_before))
    }
}

fn alert(kind: &str, at: Timestamp, window: (i64, i64), before: (i64, i64), payments_before: i64) -> Alert {
    let ((payments_10m, spent_10m), (payments_10m_before, spent_10m_before)) = (window, before);
    let kind = kind.to_owned();
    Alert { kind, at, payments_10m, spent_10m, payments_10m_before, spent_10m_before, payments_before }
}

impl Handler for CardVelocity {
    type Config = Config;
    type Event<'e> = Event;
    type State = Card;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let a_year = 60 * 24 * 365;
        for (name, value, max) in [
            ("payments_max", config.payments_max, i64::MAX),
            ("spent_max_cents", config.spent_max_cents, i64::MAX),
            ("quiet_minutes", config.quiet_minutes, a_year),
            ("verify_minutes", config.verify_minutes, a_year),
        ] {
            if !(1..=max).contains(&value) {
                return Err(ConfigError(format!("{name} must be 1 to {max}")));
            }
        }
        Ok(Self { config })
    }

    fn tables() -> Vec<EmittedTable> {
        vec![EmittedTable::of::<Alert>()]
    }

    fn on_event(&self, card: &mut Card, event: Event, context: &mut Context<'_>) -> Result<(), Fault> {
        match event {
            Event::Payment { amount_cents } => self.payment(card, amount_cents, context)?,
            Event::Verified if card.suspicious_since.is_some() || card.verification == Verification::Pending => {
                card.suspicious_since = None;
                card.verification = Verification::Verified;
                card.window.clear(); // they were all right; else the next payment would be suspicious again
                for timer in [QUIET, VERIFICATION, WINDOW_EMPTY] {
                    context.cancel_timer(timer);
                }
            }
            Event::Verified | Event::Other => {}
        }
        // An event whose clock ran ahead has used it up. Not in on_timer, where it would fire again at the same place.
        if let Some(last) = card.window.back()
            && context.timer(WINDOW_EMPTY).is_none()
        {
            context.set_timer(WINDOW_EMPTY, last.leaves_window())?;
        }
        Ok(())
    }

    fn on_timer(&self, card: &mut Card, timer: &str, context: &mut Context<'_>) -> Result<(), Fault> {
        match timer {
            // Not if a clock that runs ahead made it fire early.
            WINDOW_EMPTY if card.window.back().is_some_and(|last| last.leaves_window() > context.now) => {}
            WINDOW_EMPTY => card.window.clear(),
            QUIET => card.suspicious_since = None,
            VERIFICATION => {
                let window = card.window();
                context.emit(&alert("not_verified", context.event_time, window, window, card.payments))?;
                card.verification = Verification::Expired;
            }
            _ => {} // of an older version of this handler
        }
        Ok(())
    }

    fn features(&self, card: &Card, features: &mut Features<'_>) {
        let (payments, spent) = card.window();
        features.set("payments_10m", &payments);
        features.set("spent_10m", &spent);
        features.set("suspicious", &card.suspicious_since.is_some());
        features.set("suspicious_since", &card.suspicious_since.map(Timestamp::to_rfc3339));
        features.set("verification", &card.verification);
        features.set("alerts", &card.alerts);
        features.set("payments", &card.payments);
        features.set("late_payments", &card.late_payments);
    }
}

fn main() -> ExitCode {
    Engine::new().handler::<CardVelocity>("card-velocity").main()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyloom_actors::handler::testing::HandlerTest;
    use serde_json::{Value, json};

    use super::*;

    const SECONDS: Duration = Duration::from_secs(1);
    const MINUTES: Duration = Duration::from_secs(60);

    fn config() -> Value {
        json!({ "payments_max": 3, "spent_max_cents": 100_000, "quiet_minutes": 60, "verify_minutes": 15 })
    }

    fn bank() -> HandlerTest {
        HandlerTest::of::<CardVelocity>(config(), &["card_id"])
    }

    fn pay(cents: i64) -> Value {
        json!({ "card_id": "c1", "event": "payment", "amount_cents": cents })
    }

    fn pay_late(test: &HandlerTest, cents: i64, by: Duration) -> Value {
        json!({ "card_id": "c1", "event": "payment", "amount_cents": cents, "collector_tstamp": test.ago(by) })
    }

    fn feature(test: &HandlerTest, name: &str) -> Value {
        test.features("c1")[name].clone()
    }

    /// A card that has become suspicious just now, with four payments of 1,000.
    fn suspicious() -> HandlerTest {
        let mut test = bank();
        for _ in 0..4 {
            test.event(pay(1_000)).applied();
        }
        assert_eq!(feature(&test, "suspicious"), true);
        test
    }

    #[test]
    fn too_many_payments_raise_one_alert() {
        let mut test = bank();
        for _ in 0..3 {
            test.event(pay(1_000)).applied();
            test.advance(2 * MINUTES);
        }
        assert_eq!((feature(&test, "suspicious"), test.rows::<Alert>().len()), (json!(false), 0));
        test.event(pay(500)).applied();
        let at = test.now();
        test.event(pay(500)).applied();
        let alert = alert("too_many_payments", at, (4, 3_500), (3, 3_000), 3);
        assert_eq!(test.rows::<Alert>(), [alert]);
        assert_eq!((feature(&test, "suspicious"), feature(&test, "alerts")), (json!(true), json!(1)));
        assert_eq!((feature(&test, "payments_10m"), feature(&test, "spent_10m")), (json!(5), json!(4_000)));
    }

    #[test]
    fn too_much_money_raises_an_alert_too() {
        let mut test = bank();
        test.event(pay(100_000)).applied();
        assert_eq!(feature(&test, "suspicious"), false, "as much as is allowed");
        test.event(pay(1)).applied();
        assert_eq!(test.rows::<Alert>()[0].kind, "too_much_money");
        test.event(json!({ "card_id": "c2", "event": "payment", "amount_cents": 1 })).applied();
        assert_eq!(test.features("c2")["suspicious"], false, "cards do not know each other");
    }

    #[test]
    fn payments_leave_the_window_ten_minutes_later() {
        let mut test = bank();
        for _ in 0..9 {
            test.event(pay(40_000)).applied(); // three within ten minutes
            test.advance(4 * MINUTES);
        }
        assert_eq!((feature(&test, "suspicious"), feature(&test, "payments")), (json!(true), json!(9)));

        let mut test = bank();
        for _ in 0..9 {
            test.event(pay(40_000)).applied();
            test.advance(5 * MINUTES + 10 * SECONDS);
        }
        assert_eq!((feature(&test, "suspicious"), feature(&test, "payments_10m")), (json!(false), json!(2)));
        test.advance(5 * MINUTES);
        assert_eq!(feature(&test, "payments_10m"), 0, "without an event, once the last one has left");
        assert_eq!(feature(&test, "spent_10m"), 0);
    }

    #[test]
    fn a_quiet_period_ends_the_suspicion_and_a_payment_begins_it_anew() {
        let mut test = suspicious();
        test.advance(59 * MINUTES);
        test.event(pay(1)).applied();
        test.advance(59 * MINUTES);
        assert_eq!(feature(&test, "suspicious"), true);
        test.advance(MINUTES);
        assert_eq!((feature(&test, "suspicious"), feature(&test, "suspicious_since")), (json!(false), Value::Null));
        assert_eq!(feature(&test, "alerts"), 1);
        for _ in 0..4 {
            test.event(pay(1_000)).applied();
        }
        assert_eq!((feature(&test, "alerts"), feature(&test, "verification")), (json!(2), json!("pending")));
    }

    #[test]
    fn the_owner_verifies_in_time_or_not() {
        let mut test = suspicious();
        test.rows::<Alert>();
        test.advance(5 * MINUTES);
        test.event(json!({ "card_id": "c1", "event": "verified" })).applied();
        assert_eq!((feature(&test, "suspicious"), feature(&test, "verification")), (json!(false), json!("verified")));
        assert!(test.timers("c1").is_empty());
        test.event(pay(1_000)).applied();
        assert_eq!(feature(&test, "suspicious"), false, "what was verified does not count again");

        let mut test = suspicious();
        test.rows::<Alert>();
        let deadline = Timestamp(test.now().0 + 15 * MINUTE);
        test.advance(20 * MINUTES);
        assert_eq!((feature(&test, "suspicious"), feature(&test, "verification")), (json!(true), json!("expired")));
        assert_eq!(test.rows::<Alert>(), [alert("not_verified", deadline, (0, 0), (0, 0), 4)]);
        test.event(json!({ "card_id": "c1", "event": "verified" })).applied();
        assert_eq!((feature(&test, "suspicious"), feature(&test, "verification")), (json!(false), json!("verified")));
    }

    #[test]
    fn late_payments_count_within_the_window_and_never_after_it() {
        let mut test = bank();
        test.advance(60 * MINUTES);
        test.event(pay(1_000)).applied();
        test.event(pay_late(&test, 2_000, 9 * MINUTES)).applied();
        assert_eq!((feature(&test, "payments_10m"), feature(&test, "spent_10m")), (json!(2), json!(3_000)));
        for _ in 0..9 {
            test.event(pay_late(&test, 90_000, 11 * MINUTES)).applied();
        }
        assert_eq!((feature(&test, "payments_10m"), feature(&test, "late_payments")), (json!(2), json!(9)));
        assert_eq!((feature(&test, "suspicious"), feature(&test, "payments")), (json!(false), json!(11)));
        test.event(pay_late(&test, 99_000, 5 * MINUTES)).applied();
        assert_eq!(feature(&test, "suspicious"), true);
        assert_eq!(test.due_in("c1", QUIET), Some(60 * MINUTES), "from the newest payment on");
    }

    #[test]
    fn a_clock_that_runs_ahead_does_not_move_the_window() {
        let mut test = bank();
        let tomorrow = Timestamp(test.now().0 + 20 * 60 * MINUTE).to_rfc3339();
        let ahead = json!({ "card_id": "c1", "event": "payment", "amount_cents": 1, "collector_tstamp": tomorrow });
        test.event(ahead).applied();
        for _ in 0..3 {
            test.event(pay(1_000)).applied();
        }
        assert_eq!((feature(&test, "suspicious"), feature(&test, "late_payments")), (json!(true), json!(0)));
    }

    #[test]
    fn a_clock_that_runs_ahead_leaves_no_payment_in_the_window() {
        let mut test = bank();
        test.event(pay(1_000)).applied();
        let ahead = Timestamp(test.now().0 + 60 * MINUTE).to_rfc3339();
        test.event(json!({ "card_id": "c1", "event": "looked_at", "collector_tstamp": ahead })).applied();
        test.event(json!({ "card_id": "c1", "event": "looked_at" })).applied();
        assert_eq!(feature(&test, "payments_10m"), 1);
        test.advance(11 * MINUTES);
        assert_eq!((feature(&test, "payments_10m"), test.timers("c1").len()), (json!(0), 0));
    }

    #[test]
    fn however_many_payments_there_are_the_state_stays_small() {
        let mut card = Card::default();
        for n in 0..100_000 {
            card.count(Timestamp(1_767_225_600_000_000 + n * SECOND / 7), AMOUNT_CENTS_MAX);
        }
        assert!(card.window.len() <= 61, "{}", card.window.len());
        assert_eq!(card.window().0, 4_240, "ten minutes and the slice that is not over, at seven per second");
    }

    #[test]
    fn what_makes_no_sense_is_rejected() {
        let mut test = bank();
        for cents in [0, -5, AMOUNT_CENTS_MAX + 1] {
            assert!(test.event(pay(cents)).rejected().contains("amount_cents is"), "{cents}");
        }
        let float = json!({ "card_id": "c1", "event": "payment", "amount_cents": 12.5 });
        assert!(test.event(float).rejected().contains("invalid type: floating point"));
        assert_eq!(feature(&test, "payments"), 0);
        test.event(json!({ "card_id": "c1", "event": "verified" })).applied();
        assert_eq!(feature(&test, "verification"), "not_asked");
        for name in ["payments_max", "spent_max_cents", "quiet_minutes", "verify_minutes"] {
            let mut config = config();
            config[name] = 0.into();
            assert!(HandlerTest::refused::<CardVelocity>(config).contains(name));
        }
    }
}
