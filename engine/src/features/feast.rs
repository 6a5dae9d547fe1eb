//! The question and the answer of Feast's online server, version 0.67: rows of keys in, columns of values out.
//!
//! Pure, but for the turns of long work. Of a reference `view:feature` the feature is ours, and the view is whatever the
//! client calls it. The one entity column holds keys: texts, or whole numbers. Not here: Feast's registry, so a feature
//! service means nothing to us.

use std::{borrow::Cow, marker::PhantomData, ops::Range};

use keyloom_actors::{
    answer::{Chosen, Stored},
    event::members::members,
    features::{BUILT_IN, FeatureSet},
    key::Key,
    timestamp::Timestamp,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    ANSWER_BYTES_MAX, CELLS_MAX, KEYS_MAX, NAMES_MAX, Refusal,
    ask::{Bounded, check_names, too_many_names},
    feast_value::readable,
    turn::Turn,
};

/// Where every answer says which features have expired.
const EXPIRED: &str = BUILT_IN[3];
/// What Feast says where there is no time.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// The body of `POST /get-online-features`. What Feast adds to it later is passed over.
#[derive(Debug, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    entities: Columns<'a>,
    #[serde(default)]
    features: Bounded<Cow<'a, str>, NAMES_MAX>,
    #[serde(default)]
    feature_service: Option<Cow<'a, str>>,
    #[serde(default)]
    full_feature_names: bool,
}

/// The entity columns: the first one, and how many there are.
#[derive(Debug)]
struct Columns<'a> {
    first: Option<(Cow<'a, str>, Bounded<&'a RawValue, KEYS_MAX>)>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Columns<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ColumnsVisitor(PhantomData))
    }
}

struct ColumnsVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ColumnsVisitor<'a> {
    type Value = Columns<'a>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut columns: A) -> Result<Self::Value, A::Error> {
        let first = columns.next_entry()?;
        let mut count = usize::from(first.is_some());
        while columns.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Columns { first, count })
    }
}

/// A question, checked.
#[derive(Debug)]
pub struct Question {
    /// Name of the entity column.
    column: String,
    /// Its values as they were sent.
    entities: Vec<Box<RawValue>>,
    /// The same as keys, as far as they can be keys.
    pub keys: Vec<Option<Key>>,
    /// Names of the columns of the answer.
    names: Vec<String>,
    /// Our names of the same features.
    features: Vec<String>,
}

impl Question {
    /// Reads and checks a body.
    pub fn from_body(body: &[u8]) -> Result<Self, Refusal> {
        let wrong = |text: String| Err(Refusal::Wrong(text));
        let Body { entities, features, feature_service, full_feature_names } =
            serde_json::from_slice(body).map_err(|error| Refusal::Wrong(format!("the body: {error}")))?;
        let features = features.within(too_many_names)?;
        if let Some(service) = feature_service.filter(|_| features.is_empty()) {
            return wrong(format!(
                "feature service {service:?} is known to Feast's registry alone: ask for features by name"
            ));
        }
        if features.is_empty() {
            return wrong("no feature is asked for".to_owned());
        }
        let columns = entities.count;
        let Some((column, entities)) = entities.first.filter(|_| columns == 1) else {
            return wrong(format!(
                "the question has {columns} entity columns: features here have one key, so send one column"
            ));
        };
        let entities = entities.within(|count| {
            Refusal::TooMuch(format!("{count} entities are asked for; at most {KEYS_MAX} are answered"))
        })?;
        if entities.len().saturating_mul(features.len()) > CELLS_MAX {
            let text = format!(
                "{} entities times {} features are more than {CELLS_MAX} values",
                entities.len(),
                features.len()
            );
            return Err(Refusal::TooMuch(text));
        }
        let keys = entities.iter().enumerate().map(|(place, value)| key_of(&column, place, value.get()));
        let keys = keys.collect::<Result<_, _>>()?;
        let (names, features): (Vec<_>, Vec<_>) =
            features.iter().map(|reference| column_of(reference, full_feature_names)).unzip();
        check_names(Some(&features))?;
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("two of the features would be called {:?}: ask for full_feature_names", twice[0]));
        }
        let entities = entities.into_iter().map(RawValue::to_owned).collect();
        Ok(Self { column: column.into_owned(), entities, keys, names, features })
    }

    /// What to ask of each key.
    pub fn chosen(&self, set: &FeatureSet) -> Chosen {
        Chosen::new(self.features.iter().map(String::as_str).chain([EXPIRED]), set)
    }

    /// The values of one key, from its stored answer as of `at`; `None` when that makes no sense.
    pub fn row(&self, stored: &[u8], set: &FeatureSet, at: Timestamp, chosen: &mut Chosen) -> Option<Row> {
        Row::read(stored, set, at, chosen, self.features.len())
    }

    /// The answer, one line per entity. Between two columns others may run.
    pub async fn answer(&self, lines: &[Line], turn: &mut Turn) -> Result<Vec<u8>, Refusal> {
        let mut out = self.head(lines);
        for place in 0..self.features.len() {
            if out.len() > ANSWER_BYTES_MAX {
                return Err(Refusal::AnswerTooLarge);
            }
            self.column(&mut out, place, lines);
            turn.pause().await;
        }
        out.extend_from_slice(b"}]}");
        Ok(out)
    }

    /// The names, and the column of the entities.
    fn head(&self, lines: &[Line]) -> Vec<u8> {
        let cells: usize = lines.iter().map(Line::bytes).sum();
        let mut out = Vec::with_capacity(cells + lines.len() * (self.names.len() + 1) * 48);
        out.extend_from_slice(b"{\"metadata\":{\"feature_names\":");
        let names = [&self.column].into_iter().chain(&self.names);
        serde_json::to_writer(&mut out, &names.collect::<Vec<_>>()).expect("texts in memory serialize");
        out.extend_from_slice(b"},\"results\":[{\"values\":");
        list(&mut out, self.entities.iter().map(|entity| entity.get().as_bytes()));
        out.extend_from_slice(b",\"statuses\":");
        texts(&mut out, self.entities.iter().map(|_| "PRESENT"));
        out.extend_from_slice(b",\"event_timestamps\":");
        texts(&mut out, self.entities.iter().map(|_| NO_TIME));
        out
    }

    /// The column of the feature at `place`.
    fn column(&self, out: &mut Vec<u8>, place: usize, lines: &[Line]) {
        // One feature may be asked for under two names.
        let place = self.features.iter().position(|known| *known == self.features[place]).unwrap_or(place);
        out.extend_from_slice(b"},{\"values\":");
        list(out, lines.iter().map(|line| line.row().map_or(&b"null"[..], |row| row.value(place))));
        out.extend_from_slice(b",\"statuses\":");
        texts(out, lines.iter().map(|line| line.status(place)));
        out.extend_from_slice(b",\"event_timestamps\":");
        texts(out, lines.iter().map(|line| line.row().map_or(NO_TIME, |row| &row.event_time)));
    }
}

/// The key that an entity is; `None` when it can be none, and then nobody knows it.
fn key_of(column: &str, place: usize, value: &str) -> Result<Option<Key>, Refusal> {
    let wrong = || Refusal::Wrong(format!("entities.{column}[{place}] is no key: send a text or a whole number"));
    match value.as_bytes().first() {
        Some(b'"') => Ok(Key::new(&serde_json::from_str::<Cow<'_, str>>(value).map_err(|_| wrong())?).ok()),
        Some(b'n') => Ok(None),
        Some(b'-' | b'0'..=b'9') => {
            // A column of numbers with a gap in it becomes one of fractions in Python: 17.0 is 17.
            let whole = value
                .split_once('.')
                .map_or(value, |(whole, zeros)| if zeros.bytes().all(|digit| digit == b'0') { whole } else { value });
            if whole.contains(['.', 'e', 'E']) { Err(wrong()) } else { Ok(Key::new(whole).ok()) }
        }
        _ => Err(wrong()),
    }
}

/// What a reference `view:feature` is called in the answer, and our name of it.
fn column_of(reference: &str, full: bool) -> (String, String) {
    let Some((view, feature)) = reference.rsplit_once(':') else {
        return (reference.to_owned(), reference.to_owned());
    };
    let view = view.split_once('@').map_or(view, |(view, _version)| view);
    (if full { format!("{view}__{feature}") } else { feature.to_owned() }, feature.to_owned())
}

fn list<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]>) {
    out.push(b'[');
    for (place, value) in values.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value);
    }
    out.push(b']');
}

/// The same for texts that need no escape.
fn texts<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a str>) {
    out.push(b'[');
    for (place, value) in values.enumerate() {
        out.extend_from_slice(if place > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
    out.push(b']');
}

/// What is known of one entity.
#[derive(Debug)]
pub enum Line {
    /// Its values.
    Row(Row),
    /// Nothing.
    Unknown,
    /// That cannot be said: it was not looked up, or what is stored makes no sense.
    Invalid,
}

impl Line {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.row().map_or(0, |row| row.text.len())
    }

    fn row(&self) -> Option<&Row> {
        match self {
            Self::Row(row) => Some(row),
            Self::Unknown | Self::Invalid => None,
        }
    }

    fn status(&self, place: usize) -> &'static str {
        match self {
            Self::Row(row) => row.status(place),
            Self::Unknown => "NOT_FOUND",
            Self::Invalid => "INVALID",
        }
    }
}

/// The values of one key.
#[derive(Debug)]
pub struct Row {
    text: Vec<u8>,
    /// By place in the question.
    values: Vec<Option<Range<usize>>>,
    /// The same: whether it has expired. Empty where nothing has.
    expired: Vec<bool>,
    event_time: String,
}

impl Row {
    fn read(stored: &[u8], set: &FeatureSet, at: Timestamp, chosen: &mut Chosen, columns: usize) -> Option<Self> {
        let stored = Stored::parse(stored)?;
        let mut text = Vec::new();
        stored.write_features(&mut text, set, at, Some(&mut *chosen))?;
        let mut values = vec![None; columns];
        let mut expired = Vec::new();
        let mut walk = members(&text);
        while let Some((name, value)) = walk.next() {
            if name == EXPIRED.as_bytes() && value != b"[]" {
                expired.resize(columns, false);
                // Names of declared features are written as they are.
                for name in serde_json::from_slice::<Vec<Cow<'_, str>>>(value).ok()? {
                    if let Some(has_expired) = chosen.place(name.as_bytes()).and_then(|place| expired.get_mut(place)) {
                        *has_expired = true;
                    }
                }
            }
            if let Some(cell) = chosen.place(name).and_then(|place| values.get_mut(place)) {
                let to = text.len() - walk.rest().len();
                *cell = Some(to - value.len()..to);
            }
        }
        for cell in values.iter_mut().flatten() {
            if let Cow::Owned(changed) = readable(&text[cell.clone()]) {
                *cell = text.len()..text.len() + changed.len();
                text.extend_from_slice(&changed);
            }
        }
        Some(Self { text, values, expired, event_time: stored.event_time.to_rfc3339() })
    }

    fn value(&self, place: usize) -> &[u8] {
        self.values.get(place).and_then(Option::as_ref).map_or(b"null", |range| &self.text[range.clone()])
    }

    fn status(&self, place: usize) -> &'static str {
        match self.values.get(place) {
            Some(Some(range)) if &self.text[range.clone()] != b"null" => "PRESENT",
            Some(Some(_)) if self.expired.get(place) == Some(&true) => "OUTSIDE_MAX_AGE",
            Some(Some(_)) => "NULL_VALUE",
            _ => "NOT_FOUND",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::features::tests::{AT, set, stored};

    fn ask(question: &Value) -> Question {
        Question::from_body(question.to_string().as_bytes()).expect("a question")
    }

    fn answer(question: &Question, rows: &[Option<&[u8]>], at: Timestamp) -> Value {
        let set = set();
        let mut chosen = question.chosen(&set);
        let mut read = |stored: &[u8]| question.row(stored, &set, at, &mut chosen).map_or(Line::Invalid, Line::Row);
        let lines: Vec<_> = rows.iter().map(|stored| stored.map_or(Line::Unknown, &mut read)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let answer = runtime.block_on(question.answer(&lines, &mut Turn::new()));
        serde_json::from_slice(&answer.expect("an answer")).expect("JSON")
    }

    #[test]
    fn columns_answer_to_names_and_rows_to_entities() {
        let question = ask(&json!({
            "features": ["v:visits", "v:cart", "v:no", "v:note"], "entities": {"id": ["a", 17, "b"]},
            "full_feature_names": false, "include_feature_view_version_metadata": false,
        }));
        assert_eq!(question.keys, ["a", "17", "b"].map(|key| Key::new(key).ok()));
        let (one, two) = (stored("a", &set(), |f| f.set("note", &"x")), stored("17", &set(), |f| f.set("note", &())));
        let answer = answer(&question, &[Some(&one), Some(&two), None], AT);
        let time = AT.to_rfc3339();
        let column = |values: Value, statuses: Value| json!({"values": values, "statuses": statuses, "event_timestamps": [time, time, NO_TIME]});
        let expected = json!({
            "metadata": {"feature_names": ["id", "visits", "cart", "no", "note"]},
            "results": [
                {"values": ["a", 17, "b"], "statuses": ["PRESENT", "PRESENT", "PRESENT"], "event_timestamps": [NO_TIME, NO_TIME, NO_TIME]},
                column(json!([1, 1, null]), json!(["PRESENT", "PRESENT", "NOT_FOUND"])),
                column(json!(["/", "/", null]), json!(["PRESENT", "PRESENT", "NOT_FOUND"])),
                column(json!([null, null, null]), json!(["NOT_FOUND", "NOT_FOUND", "NOT_FOUND"])),
                column(json!(["x", null, null]), json!(["PRESENT", "NULL_VALUE", "NOT_FOUND"])),
            ],
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn what_is_no_longer_served_is_outside_its_age() {
        let question = ask(
            &json!({"features": ["v@v2:cart", "w:cart", "visits"], "entities": {"id": ["a"]}, "full_feature_names": true}),
        );
        let stored = stored("a", &set(), |_| {});
        let later = Timestamp(AT.0 + 3_601 * 1_000_000);
        let answer = answer(&question, &[Some(&stored)], later);
        assert_eq!(answer["metadata"]["feature_names"], json!(["id", "v__cart", "w__cart", "visits"]));
        for column in [1, 2] {
            assert_eq!(answer["results"][column]["values"], json!([null]));
            assert_eq!(answer["results"][column]["statuses"], json!(["OUTSIDE_MAX_AGE"]));
        }
        assert_eq!(answer["results"][3]["statuses"], json!(["PRESENT"]));
    }

    #[test]
    fn what_cannot_be_read_is_invalid_and_the_others_are_answered() {
        let question = ask(&json!({"features": ["v:visits"], "entities": {"id": ["a", "odd", "nobody"]}}));
        let answer = answer(&question, &[Some(&stored("a", &set(), |_| {})), Some(b"{}"), None], AT);
        assert_eq!(answer["results"][1]["statuses"], json!(["PRESENT", "INVALID", "NOT_FOUND"]));
        assert_eq!(answer["results"][1]["values"], json!([1, null, null]));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_words() {
        let many: Vec<_> = (0..KEYS_MAX).map(|i| format!("f:{i}")).collect();
        let keys: Vec<_> = (0..=KEYS_MAX).collect();
        let twice = [many.clone(), many.clone()].concat();
        for (question, code, says) in [
            (json!([]), 400, "the body: "),
            (json!({"features": ["v:a"]}), 400, "the body: "),
            (json!({"features": ["v:a"], "entities": {}}), 400, "0 entity columns"),
            (json!({"features": ["v:a"], "entities": {"a": ["x"], "b": ["y"]}}), 400, "2 entity columns"),
            (json!({"features": [], "entities": {"a": ["x"]}}), 400, "no feature"),
            (json!({"feature_service": "s", "entities": {"a": ["x"]}}), 400, "registry"),
            (json!({"features": ["v:a", "w:a"], "entities": {"a": ["x"]}}), 400, "full_feature_names"),
            (json!({"features": ["v:a"], "entities": {"a": ["x", 1.5]}}), 400, "entities.a[1]"),
            (json!({"features": ["v:a"], "entities": {"a": [{"x": 1}]}}), 400, "entities.a[0]"),
            (json!({"features": ["v:a"], "entities": {"a": keys}}), 413, "1001 entities"),
            (json!({"features": twice, "entities": {"a": []}}), 413, "2000 features"),
            (json!({"features": many, "entities": {"a": (0..101).collect::<Vec<_>>()}}), 413, "100000 values"),
        ] {
            let refusal = Question::from_body(question.to_string().as_bytes()).expect_err(says);
            assert!(refusal.to_string().contains(says) && refusal.code() == code, "{refusal}");
        }
        let numbers = ask(&json!({"features": ["v:a"], "entities": {"a": [17, 17.0, -3]}}));
        assert_eq!(numbers.keys, ["17", "17", "-3"].map(|key| Key::new(key).ok()));
        let nobody = ask(&json!({"features": ["v:a"], "entities": {"a": [null, "", "x".repeat(600)]}}));
        assert_eq!(nobody.keys, [None, None, None]);
    }

    proptest! {
        #[test]
        fn any_body_is_judged(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _either_way = Question::from_body(&body);
        }

        #[test]
        fn every_column_has_a_value_and_a_status_per_entity(
            entities in proptest::collection::vec("[a-c\"\\\\]{1,3}", 0..6),
            names in proptest::collection::btree_set("(visits|cart|note|late_events|x[0-9])", 1..6),
            known in proptest::collection::vec(any::<bool>(), 6),
        ) {
            let question = ask(&json!({
                "features": names.iter().map(|name| format!("v:{name}")).collect::<Vec<_>>(), "entities": {"k": entities},
            }));
            let stored = stored("a", &set(), |features| features.set("note", &"},\"event_time\":\""));
            let rows: Vec<_> = (0..entities.len()).map(|i| known[i].then_some(&stored[..])).collect();
            let answer = answer(&question, &rows, AT);
            let columns = answer["metadata"]["feature_names"].as_array().map(Vec::len);
            prop_assert_eq!(columns, answer["results"].as_array().map(Vec::len));
            prop_assert_eq!(&answer["results"][0]["values"], &json!(entities));
            for column in answer["results"].as_array().expect("columns") {
                for part in ["values", "statuses", "event_timestamps"] {
                    prop_assert_eq!(column[part].as_array().map(Vec::len), Some(entities.len()));
                }
            }
        }
    }
}
