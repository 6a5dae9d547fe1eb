//! Answers of keys that had no event since the topology was edited.
//!
//! Pure. Which features are said anew, and from what, was decided by the definitions that an answer was written with. With
//! others each feature is looked for where it may stand: in the kept part of the state, else in the text.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};

use super::{Chosen, Stored, features_behind, sound};
use crate::{
    event::members::members,
    features::{Edited, FeatureSet, Stood},
    timestamp::Timestamp,
};

impl Stored<'_> {
    /// As [`Stored::write_features`], where the answer was written with other definitions.
    pub(super) fn write_edited(
        &self,
        out: &mut Vec<u8>,
        set: &FeatureSet,
        at: Timestamp,
        chosen: Option<&Chosen>,
    ) -> Option<usize> {
        let from = out.len();
        let wanted = |name: &str| chosen.is_none_or(|chosen| chosen.place(name.as_bytes()).is_some());
        let mut stood = HashMap::new();
        for (name, text) in members(self.lasting) {
            let (name, text) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(text).ok()?);
            if set.hash_of(name).is_some() {
                stood.insert(name, Stood { text, changing: false });
            } else if wanted(name) {
                // The handler's, and what is no longer declared: as they are until the next event.
                let comma = if out.len() > from { "," } else { "" };
                out.extend_from_slice(format!("{comma}\"{name}\":{text}").as_bytes());
            }
        }
        for (name, text) in members(self.changing) {
            // Of what is no longer declared nobody can say how it has changed.
            let (name, text) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(text).ok()?);
            stood.insert(name, Stood { text, changing: true });
        }
        let kept = self.state.map(|state| BASE64_STANDARD_NO_PAD.decode(state)).transpose().ok()?;
        let edited = Edited { kept: kept.as_deref(), newest: self.event_time, stood };
        sound(edited.write(set, at, &mut features_behind(out, from), wanted))?;
        Some(chosen.map_or(0, |_| members(&out[from..]).count()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::{
        super::{
            read,
            tests::{AT, json as parsed, state, stored},
        },
        *,
    };
    use crate::{
        features::{Definition, Function, Settings, Window},
        timestamp::SECOND,
    };

    const TTL: u64 = 3_600;

    fn with_ttl(definition: Definition) -> Definition {
        Definition { ttl: Some(Duration::from_secs(TTL)), ..definition }
    }

    fn cart() -> Definition {
        Definition { of: Some("cart".to_owned()), ..Definition::new(Function::Last) }
    }

    fn recent() -> Definition {
        Definition { window: Some(Window::Sliding(Duration::from_secs(300))), ..Definition::new(Function::Count) }
    }

    fn set(definitions: &[(&str, Definition)]) -> FeatureSet {
        let definitions = definitions.iter().map(|(name, d)| ((*name).to_owned(), d.clone())).collect();
        FeatureSet::compile(definitions, Settings::default()).expect("sound definitions")
    }

    /// An answer of a key with one event, that says its cart.
    fn written(set: &FeatureSet) -> Bytes {
        stored(Some((set, &state(set))), |features| features.set("note", &"n"))
    }

    /// The features so many seconds after the event, all and one by one: they say the same, nothing twice.
    fn features(stored: &[u8], set: &FeatureSet, seconds: u64) -> Value {
        let at = Timestamp(AT.0 + seconds as i64 * SECOND);
        let parts = Stored::parse(stored).expect("an answer");
        let mut text = Vec::new();
        parts.write_features(&mut text, set, at, None).expect("sound");
        let whole = parsed(&read(stored, set, at).expect("an answer"))["features"].clone();
        let names: Vec<_> = members(&text).map(|(name, _)| std::str::from_utf8(name).expect("a text")).collect();
        assert_eq!(names.len(), whole.as_object().expect("features").len(), "{names:?}");
        for name in names.iter().copied().chain(set.names()) {
            for more in [None, Some("note"), Some("recent"), Some("expired_features"), Some("no")] {
                let asked: Vec<_> = more.into_iter().filter(|more| *more != name).chain([name]).collect();
                let (mut chosen, mut out) = (Chosen::new(asked.iter().copied(), set), b"{".to_vec());
                let count = parts.write_features(&mut out, set, at, Some(&mut chosen)).expect("sound");
                out.push(b'}');
                let expected: serde_json::Map<_, _> =
                    asked.iter().filter_map(|name| Some(((*name).to_owned(), whole.get(*name)?.clone()))).collect();
                assert_eq!((count, parsed(&out)), (expected.len(), expected.into()), "{asked:?}");
            }
        }
        whole
    }

    #[test]
    fn a_ttl_that_is_added_applies_to_keys_without_events() {
        // With and without anything that changed with time before.
        for others in [&[("recent", recent())][..], &[]] {
            let with = |cart: Definition| set(&[&[("cart", cart)], others].concat());
            let (stored, new) = (written(&with(cart())), with(with_ttl(cart())));
            for (seconds, recent) in [(10, 1), (400, 0), (TTL, 0)] {
                let answer = features(&stored, &new, seconds);
                assert_eq!((&answer["cart"], &answer["expired_features"]), (&json!("x"), &json!([])));
                assert_eq!(answer["note"], "n");
                assert!(others.is_empty() || answer["recent"] == recent, "{answer}");
            }
            let answer = features(&stored, &new, TTL + 1);
            assert_eq!((&answer["cart"], &answer["expired_features"]), (&json!(null), &json!(["cart"])));
        }
    }

    #[test]
    fn what_a_ttl_hid_is_served_when_the_ttl_is_gone() {
        for others in [&[("recent", recent())][..], &[]] {
            let with = |cart: Definition| set(&[&[("cart", cart)], others].concat());
            let (stored, new) = (written(&with(with_ttl(cart()))), with(cart()));
            for seconds in [0, TTL + 1] {
                let answer = features(&stored, &new, seconds);
                assert_eq!((&answer["cart"], answer.get("expired_features")), (&json!("x"), None));
            }
            assert!(others.is_empty() || features(&stored, &new, 400)["recent"] == 0);
        }
    }

    #[test]
    fn a_feature_that_never_took_anything_does_not_expire() {
        let never = |d: Definition| Definition { filter: Some("cart == 'y'".to_owned()), ..d };
        let (old, new) = (set(&[("n", never(Definition::new(Function::Count))), ("c", never(cart()))]), |ttl: bool| {
            let d = |d| if ttl { with_ttl(never(d)) } else { never(d) };
            set(&[("n", d(Definition::new(Function::Count))), ("c", d(cart()))])
        });
        for stored in [written(&old), written(&new(true))] {
            let answer = features(&stored, &new(true), TTL + 1);
            assert_eq!(
                (&answer["n"], &answer["c"], &answer["expired_features"]),
                (&json!(0), &json!(null), &json!([]))
            );
            assert_eq!(features(&stored, &new(false), TTL + 1)["n"], 0);
        }
    }

    #[test]
    fn derived_features_follow_what_they_are_computed_from() {
        let ratio = Definition { of: Some("recent / all".to_owned()), ..Definition::new(Function::Ratio) };
        let all = || Definition::new(Function::Count);
        let old = set(&[("all", all()), ("recent", recent()), ("share", ratio.clone())]);
        let new = set(&[("all", with_ttl(all())), ("recent", recent()), ("share", ratio.clone())]);
        let of = |stored: &Bytes, set: &FeatureSet, seconds| features(stored, set, seconds)["share"].clone();
        assert_eq!([of(&written(&old), &new, 10), of(&written(&old), &new, 400)], [json!(1.0), json!(0.0)]);
        assert_eq!(of(&written(&old), &new, TTL + 1), json!(null), "its divisor is no longer served");
        assert_eq!(of(&written(&new), &old, TTL + 1), json!(0.0));
        // One that was not there before, of what lasted.
        let before = set(&[("all", all()), ("recent", recent())]);
        assert_eq!(of(&written(&before), &new, 10), json!(1.0));
    }

    #[test]
    fn after_any_edit_nothing_is_said_twice_and_nothing_known_is_lost() {
        let all = || Definition::new(Function::Count);
        let priced = || Definition { of: Some("price".to_owned()), ..Definition::new(Function::Sum) };
        let index = || Definition::new(Function::SessionEvents);
        let active = || Definition::new(Function::SessionActive);
        let derived = || Definition { of: Some("all + 1.0".to_owned()), ..Definition::new(Function::Derived) };
        let sets: Vec<FeatureSet> = [
            vec![("all", all()), ("cart", cart()), ("sum", priced())],
            vec![("all", with_ttl(all())), ("cart", cart()), ("sum", priced()), ("next", derived())],
            vec![("all", all()), ("cart", with_ttl(cart())), ("recent", recent()), ("next", derived())],
            vec![("all", all()), ("cart", with_ttl(cart())), ("sum", with_ttl(priced())), ("index", index())],
            vec![("basket", with_ttl(cart())), ("all", all()), ("index", index()), ("active", active())],
            vec![("recent", with_ttl(recent())), ("all", with_ttl(all())), ("active", active())],
            vec![("recent", recent()), ("cart", cart()), ("index", index())],
            vec![],
        ]
        .iter()
        .map(|definitions| set(definitions))
        .collect();
        for (old, new) in sets.iter().flat_map(|old| sets.iter().map(move |new| (old, new))) {
            let stored = written(old);
            for seconds in [0, 10, TTL / 2] {
                let (then, now) = (features(&stored, old, seconds), features(&stored, new, seconds));
                for name in new.names().filter(|name| old.hash_of(name).is_some()) {
                    assert_eq!(now[name], then[name], "{name} after {seconds} s");
                }
                for name in new
                    .names()
                    .filter(|name| new.find_changing(name).is_some() && !["all", "sum", "cart"].contains(name))
                {
                    assert!(now.get(name).is_some() || name == "basket", "{name}: {now}");
                }
                assert_eq!(now["note"], "n");
            }
        }
        // Before, answers did not say what they were written with; they read the same.
        for set in &sets {
            let stored = written(set);
            let split = format!("\"set\":\"{}\",", set.split());
            let old = String::from_utf8(stored.to_vec()).expect("a text").replace(&split, "");
            assert_eq!(old.len() < stored.len(), set.decays());
            for seconds in [0, 400, TTL + 1] {
                assert_eq!(features(old.as_bytes(), set, seconds), features(&stored, set, seconds));
            }
        }
    }

    #[test]
    fn what_is_redefined_starts_empty_and_what_is_gone_stays_at_most_as_it_was() {
        let old = set(&[("n", Definition::new(Function::Count)), ("gone", Definition::new(Function::Count))]);
        let new = set(&[("n", recent()), ("new", cart())]);
        let answer = features(&written(&old), &new, 10);
        assert_eq!((&answer["n"], &answer["gone"], answer.get("new")), (&json!(0), &json!(1), None));
        let old = set(&[("n", recent()), ("gone", recent())]);
        let answer = features(&written(&old), &set(&[("n", Definition::new(Function::Count))]), 400);
        assert_eq!((answer.get("n"), answer.get("gone")), (Some(&json!(0)), None));
    }
}
