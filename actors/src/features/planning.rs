//! From one definition to a plan: keys that are missing, too many, out of range, or do not fit together.
//!
//! Pure. What definitions have to do with each other is in `set`.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    decimal::{SCALE_DEFAULT, SCALE_MAX},
    definition::{Definition, DefinitionProblem, Function, Need, Settings, Window},
    distinct::{DISTINCT_DEFAULT, DISTINCT_MAX, DISTINCT_SLIDING_MAX},
    expression::{Predicate, Source},
    hyperloglog::{PRECISION_DEFAULT, PRECISION_MAX, PRECISION_MIN, PRECISION_SLIDING_MAX},
    recent::{K_DEFAULT, K_MAX},
    set::BUILT_IN,
    slot::Plan,
    syntax::Wrong,
    top_k::{TOP_CAPACITY_MAX, TOP_CAPACITY_PER_K, TOP_K_DEFAULT, TOP_K_MAX},
    typing::{Names, Type},
    window::{Span, WINDOW_MAX, WINDOW_MIN},
};

/// Longest name of a feature, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Stands in canonical forms: raised when the same definition comes to mean something else.
const MEANING: u32 = 1;

/// Collects problems.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) list: Vec<DefinitionProblem>,
}

impl Problems {
    pub(super) fn add(&mut self, feature: &str, field: &'static str, text: impl Into<String>, help: &str) {
        let (feature, text, help) = (feature.to_owned(), text.into(), help.to_owned());
        self.list.push(DefinitionProblem { feature, field, text, help, at: None });
    }

    pub(super) fn wrong(&mut self, feature: &str, field: &'static str, wrong: Wrong) {
        let Wrong { text, help, at } = wrong;
        self.list.push(DefinitionProblem { feature: feature.to_owned(), field, text, help, at });
    }
}

/// A definition, compiled as far as it goes alone.
pub(super) struct Planned {
    pub(super) plan: Plan,
    /// With their texts, to find equal ones.
    pub(super) predicate: Option<(String, Predicate)>,
    pub(super) source: Option<(String, Source)>,
    pub(super) result: Type,
    pub(super) decays: bool,
    /// What the hash is of.
    pub(super) canonical: String,
}

/// Microseconds of a duration.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Definitions whose names can be used, each name once.
pub(super) fn named(definitions: Vec<(String, Definition)>, problems: &mut Problems) -> Vec<(String, Definition)> {
    let mut kept: Vec<(String, Definition)> = Vec::with_capacity(definitions.len());
    let mut seen = std::collections::HashSet::new();
    for (name, definition) in definitions {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain || name.len() > NAME_BYTES_MAX || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            let help = format!("use up to {NAME_BYTES_MAX} of a-z, 0-9 and _, beginning with a letter");
            problems.add(&name, "name", "is not a valid name", &help);
        } else if BUILT_IN.contains(&name.as_str()) {
            problems.add(&name, "name", "is the name of a feature that every key has", "choose another name");
        } else if !seen.insert(name.clone()) {
            problems.add(&name, "name", "is declared twice", "remove one of them");
            continue;
        }
        kept.push((name, definition));
    }
    kept
}

/// Checks the keys of a feature that is computed from others.
pub(super) fn derived_keys(name: &str, definition: &Definition, problems: &mut Problems) {
    unneeded(name, definition, problems);
    if definition.of.is_none() {
        let help = match definition.function {
            Function::Ratio => "add of = \"orders / visits\", with two features of yours",
            _ => "add of = \"...\", an expression over other features",
        };
        problems.add(name, "function", format!("{} needs of", definition.function.name()), help);
    }
}

/// Compiles a definition that is computed from events. When problems were added the plan is not to be used.
pub(super) fn plan(name: &str, definition: &Definition, settings: &Settings, problems: &mut Problems) -> Planned {
    let function = definition.function;
    unneeded(name, definition, problems);
    let names = Names::Fields(settings.fields.as_ref());
    let mut predicate = None;
    if let Some(text) = definition.filter.as_ref().filter(|_| function.keys().contains(&"where")) {
        match Predicate::compile(text, &names) {
            Ok(compiled) => predicate = Some((text.trim().to_owned(), compiled)),
            Err(wrong) => problems.wrong(name, "where", wrong),
        }
    }
    let mut source = None;
    let mut of_type = Type::Any;
    match (&definition.of, function.of()) {
        (Some(text), Need::Required | Need::Optional) => match Source::compile(text, &names) {
            Ok((compiled, result)) => {
                of_type = result;
                if let Some(text) = unfit(function, result) {
                    problems.add(name, "of", text, "take another field, or another function");
                }
                source = Some((text.trim().to_owned(), compiled));
            }
            Err(wrong) => problems.wrong(name, "of", wrong),
        },
        (None, Need::Required) => {
            let text = format!("{} needs of", function.name());
            problems.add(
                name,
                "function",
                text,
                "add of = \"...\": a field such as \"price\", or an expression over fields",
            );
        }
        _ => {}
    }
    let span = span(name, definition, settings, problems);
    let sliding = matches!(span, Span::Sliding { .. });
    let mut within = |field, given: Option<u32>, default: u32, (min, max): (u32, u32)| {
        let value = given.unwrap_or(default);
        if given.is_some() && function.keys().contains(&field) && !(min..=max).contains(&value) {
            let over = if sliding && matches!(field, "max" | "precision") { " over a sliding window" } else { "" };
            let text = format!("{value} is out of range");
            problems.add(name, field, text, &format!("choose {min} to {max}{over}"));
        }
        value
    };
    let top = function == Function::TopK;
    let k_limits = if top { (1, TOP_K_MAX) } else { (1, K_MAX) };
    let mut k = within("k", definition.k, if top { TOP_K_DEFAULT } else { K_DEFAULT }, k_limits);
    if function == Function::Last {
        k = 1;
    }
    let max = if top {
        let default = (k.saturating_mul(TOP_CAPACITY_PER_K)).clamp(100, TOP_CAPACITY_MAX);
        within("max", definition.max, default, (k, TOP_CAPACITY_MAX))
    } else {
        within("max", definition.max, DISTINCT_DEFAULT, (1, if sliding { DISTINCT_SLIDING_MAX } else { DISTINCT_MAX }))
    };
    let precisions = (PRECISION_MIN.into(), if sliding { PRECISION_SLIDING_MAX } else { PRECISION_MAX }.into());
    let precision = within("precision", definition.precision.map(u32::from), PRECISION_DEFAULT.into(), precisions);
    let scale = within("scale", definition.scale.map(u32::from), SCALE_DEFAULT.into(), (0, SCALE_MAX.into()));
    let half_life = half_life(name, definition, problems);
    if definition.ttl.is_some_and(|ttl| !(WINDOW_MIN..=WINDOW_MAX).contains(&ttl)) {
        problems.add(name, "ttl", "is out of range", "choose 1s to 3650d");
    }
    let window = match span {
        Span::Lifetime => "lifetime".to_owned(),
        Span::Tumbling(length) => format!("tumbling {length}"),
        Span::Sliding { window, hop } => format!("sliding {window} {hop}"),
        Span::Session => "session".to_owned(),
    };
    let gap = if span == Span::Session || function.is_of_session() { micros(settings.session_gap) } else { 0 };
    let text = |text: &Option<String>| text.as_deref().map(str::trim).unwrap_or_default().to_owned();
    let (of, filter) = (text(&definition.of), text(&definition.filter));
    // Only what the function has a use for.
    let uses = |key: &str, value: i64| if function.keys().contains(&key) { value } else { 0 };
    let canonical = format!(
        "{MEANING}\n{}\n{of}\n{filter}\n{window}\n{} {} {} {} {} {gap}",
        function.name(),
        uses("k", k.into()),
        uses("max", max.into()),
        uses("precision", precision.into()),
        uses("half_life", half_life),
        uses("scale", scale.into()),
    );
    let plan = Plan {
        hash: xxh3_64(canonical.as_bytes()),
        function,
        span,
        filter: None,
        k,
        max,
        precision: precision as u8,
        half_life,
        scale: scale as u8,
    };
    let decays = span.decays() || function.decays();
    Planned { plan, predicate, source, result: result_type(function, of_type), decays, canonical }
}

fn unneeded(name: &str, definition: &Definition, problems: &mut Problems) {
    let function = definition.function;
    let given = [
        ("where", definition.filter.is_some()),
        ("k", definition.k.is_some()),
        ("max", definition.max.is_some()),
        ("precision", definition.precision.is_some()),
        ("half_life", definition.half_life.is_some()),
        ("scale", definition.scale.is_some()),
        ("ttl", definition.ttl.is_some()),
    ];
    let mut refuse = |key: &'static str| {
        let text = format!("has no meaning for {}", function.name());
        problems.add(name, key, text, "remove it");
    };
    given.into_iter().filter(|(key, given)| *given && !function.keys().contains(key)).for_each(|(key, _)| refuse(key));
    if definition.of.is_some() && function.of() == Need::Never {
        refuse("of");
    }
    if !matches!(definition.window, None | Some(Window::Lifetime)) && !function.takes_windows() {
        refuse("window");
    }
}

fn span(name: &str, definition: &Definition, settings: &Settings, problems: &mut Problems) -> Span {
    let window = definition.window.filter(|_| definition.function.takes_windows()).unwrap_or(Window::Lifetime);
    if let Window::Tumbling(length) | Window::Sliding(length) = window
        && !(WINDOW_MIN..=WINDOW_MAX).contains(&length)
    {
        problems.add(name, "window", "is out of range", "choose 1s to 3650d");
    }
    if settings.session_gap.is_zero() && window == Window::Session {
        problems.add(name, "window", "needs a session gap", "set session_gap in [features]");
    }
    match window {
        Window::Lifetime => Span::Lifetime,
        Window::Tumbling(length) => Span::Tumbling(micros(length).max(1)),
        Window::Sliding(length) => Span::sliding(micros(length).max(1)),
        Window::Session => Span::Session,
    }
}

fn half_life(name: &str, definition: &Definition, problems: &mut Problems) -> i64 {
    if definition.function != Function::ExpDecay {
        return 1;
    }
    match definition.half_life {
        None => {
            problems.add(name, "function", "exp_decay needs half_life", "add half_life = \"6h\"");
            1
        }
        Some(given) if !(WINDOW_MIN..=WINDOW_MAX).contains(&given) => {
            problems.add(name, "half_life", "is out of range", "choose 1s to 3650d");
            1
        }
        Some(given) => micros(given),
    }
}

/// Why the function can do nothing with values of a type.
fn unfit(function: Function, of: Type) -> Option<String> {
    let fits = match of {
        Type::Any => true,
        Type::Number => true,
        Type::Text | Type::Bool => !function.is_numeric(),
        Type::Null | Type::List | Type::Object => function == Function::Count && of != Type::Null,
    };
    let needs = if function.is_numeric() { "needs numbers" } else { "needs single values" };
    (!fits).then(|| format!("is {of}, and {} {needs}", function.name()))
}

fn result_type(function: Function, of: Type) -> Type {
    use Function as F;
    match function {
        F::First | F::Last => of,
        F::LastK | F::LastDistinctK | F::TopK => Type::List,
        F::Distinct => Type::Object,
        F::SessionActive | F::SessionBounce => Type::Bool,
        F::SessionEntryPage | F::SessionExitPage => Type::Text,
        F::Derived => Type::Any,
        _ => Type::Number,
    }
}
