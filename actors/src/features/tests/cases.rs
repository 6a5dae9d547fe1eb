//! What the oracle judges: random events of a shop, and each function over each window with what it means in plain code.

use std::collections::BTreeMap;

use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;

/// Random numbers from a seed.
pub(super) struct Dice(TestRng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        use proptest::prelude::Rng;
        self.0.next_u64() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

#[derive(Debug, Clone)]
pub(super) struct Ev {
    pub(super) time: i64,
    pub(super) kind: &'static str,
    pub(super) page: Option<u64>,
    /// Hundredths.
    pub(super) price: Option<i64>,
    pub(super) quantity: Option<i64>,
    pub(super) plan: Option<&'static str>,
}

impl Ev {
    pub(super) fn random(dice: &mut Dice, time: i64) -> Self {
        let kind = dice.of(&["page_view", "page_view", "page_ping", "click", "order"]);
        let many = dice.of(&[3, 20, 500]);
        Self {
            time,
            kind,
            page: (!dice.one_in(5)).then(|| dice.below(many)),
            price: (!dice.one_in(3)).then(|| dice.below(100_000) as i64 - 20_000),
            quantity: dice.one_in(2).then(|| dice.below(5) as i64),
            plan: (!dice.one_in(4)).then(|| dice.of(&["free", "pro", "team"])),
        }
    }

    pub(super) fn json(&self) -> String {
        let mut text = format!(r#""event":"{}""#, self.kind);
        self.page.iter().for_each(|page| text.push_str(&format!(r#","page_url":"{}""#, path(*page))));
        let cents = |price: &i64| (if *price < 0 { "-" } else { "" }, price.abs() / 100, price.abs() % 100);
        self.price.iter().map(cents).for_each(|(s, w, c)| text.push_str(&format!(r#","price":{s}{w}.{c:02}"#)));
        self.quantity.iter().for_each(|quantity| text.push_str(&format!(r#","cart":{{"quantity":{quantity}}}"#)));
        self.plan.iter().for_each(|plan| text.push_str(&format!(r#","plan":"{plan}""#)));
        text
    }
}

/// Some pages are longer than what is stored in place.
pub(super) fn path(page: u64) -> String {
    if page.is_multiple_of(3) { format!("/a/rather/long/path/to/page/{page}") } else { format!("/{page}") }
}

/// The value of `of` in an event: hundredths, or JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Val {
    Cents(i128),
    Text(String),
}

impl Val {
    pub(super) fn json(&self) -> String {
        match self {
            Self::Cents(cents) => decimal(*cents, 2),
            Self::Text(text) => text.clone(),
        }
    }
}

pub(super) fn decimal(units: i128, places: usize) -> String {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    let part = part.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

/// What an answer has to be.
pub(super) enum Expected {
    Exactly(String),
    Near(f64, f64),
    /// More values than are counted: their true counts, by JSON text.
    Top(BTreeMap<String, u64>),
}

pub(super) struct Case {
    pub(super) name: String,
    pub(super) definition: Definition,
    pub(super) filter: fn(&Ev) -> bool,
    pub(super) value: fn(&Ev) -> Option<Val>,
}

pub(super) fn page_of(event: &Ev) -> Option<Val> {
    event.page.map(|page| Val::Text(format!("\"{}\"", path(page))))
}

pub(super) fn cents_of(event: &Ev) -> Option<Val> {
    event.price.map(|price| Val::Cents(price.into()))
}

pub(super) type Filter = (&'static str, fn(&Ev) -> bool);
pub(super) type Values = (&'static str, fn(&Ev) -> Option<Val>);

pub(super) const ALL: Filter = ("", |_| true);
pub(super) const VIEWS: Filter = ("event == 'page_view'", |e| e.kind == "page_view");
pub(super) const PAID: Filter = ("plan in ['pro', 'team'] && price > 10", |e| {
    e.plan.is_some_and(|plan| plan != "free") && e.price.is_some_and(|price| price > 1_000)
});
pub(super) const OTHERS: Filter =
    ("!(event == 'order') || plan != 'free'", |e| e.kind != "order" || e.plan.is_some_and(|p| p != "free"));
pub(super) const BY_SIZE: Filter = ("size(page_url) > 4", |e| e.page.is_some_and(|page| path(page).len() > 4));
pub(super) const PAGES: Values = ("page_url", page_of);
pub(super) const PRICES: Values = ("price", cents_of);
pub(super) const TOTALS: Values =
    ("price * cart.quantity", |e| Some(Val::Cents(i128::from(e.price?) * i128::from(e.quantity?))));
pub(super) const QUANTITIES: Values = ("cart.quantity", |e| Some(Val::Cents(i128::from(e.quantity?) * 100)));
pub(super) const NOTHING: Values = ("", |_| None);

pub(super) fn cases() -> Vec<Case> {
    let windows = [
        ("life", None),
        ("hour", Some(Window::Tumbling(Duration::from_secs(3_600)))),
        ("minutes", sliding(300)),
        ("long", sliding(7_200)),
        ("session", Some(Window::Session)),
    ];
    let of: [(&str, Filter, Values); 17] = [
        ("count", ALL, NOTHING),
        ("count", VIEWS, PAGES),
        ("count", OTHERS, NOTHING),
        ("sum", PAID, PRICES),
        ("sum", ALL, TOTALS),
        ("avg", VIEWS, PRICES),
        ("stddev", ALL, PRICES),
        ("min", ALL, PRICES),
        ("max", BY_SIZE, QUANTITIES),
        ("first", VIEWS, PAGES),
        ("last", ALL, PRICES),
        ("last_k", VIEWS, PAGES),
        ("last_distinct_k", ALL, PAGES),
        ("approx_distinct", ALL, PAGES),
        ("distinct", OTHERS, PAGES),
        ("top_k", ALL, PAGES),
        ("top_k", ALL, PRICES),
    ];
    let mut cases = Vec::new();
    for (place, (function, (filter, filters), (values, value))) in of.into_iter().enumerate() {
        for (label, window) in windows {
            let mut definition = define(function, values, filter, window);
            match function {
                "last_k" | "last_distinct_k" => definition.k = Some(7),
                "approx_distinct" => definition.precision = Some(8),
                "distinct" => definition.max = Some(40),
                "top_k" => (definition.k, definition.max) = (Some(5), Some(60)),
                _ => {}
            }
            let name = format!("{function}_{label}_{place}");
            cases.push(Case { name, definition, filter: filters, value });
        }
    }
    for (name, function, (filter, filters)) in
        [("since_last", "time_since_last", VIEWS), ("since_first", "time_since_first", PAID)]
    {
        let definition = define(function, "", filter, None);
        cases.push(Case { name: name.to_owned(), definition, filter: filters, value: |_| None });
    }
    for (name, (values, value)) in [("warmth", NOTHING), ("heat", PRICES)] {
        let half_life = Some(Duration::from_secs(900));
        let definition = Definition { half_life, ..define("exp_decay", values, VIEWS.0, None) };
        cases.push(Case { name: name.to_owned(), definition, filter: VIEWS.1, value });
    }
    for name in SESSION_FUNCTIONS {
        let definition = define(name, "", "", None);
        cases.push(Case { name: name.to_owned(), definition, filter: |_| true, value: |_| None });
    }
    cases
}
