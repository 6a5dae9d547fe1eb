//! What is asked for, and whether it may be.
//!
//! Pure.

use serde::{Deserialize, Serialize};

use super::{CHANGE_MAX, Filter, IDS_MAX, LIST_DEFAULT, LIST_MAX, LetterId, Place, When};
use keyloom_actors::dead_letter::Reason;

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Which letters.
    pub filter: Filter,
    /// At most so many.
    pub limit: usize,
    /// Going on from here.
    pub after: Option<Place>,
}

/// What is done with letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The event goes to the log again, and the letter away.
    Redrive,
    /// The letter goes away.
    Purge,
}

/// Letters to send again or to remove: those named, or those that fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeRequest {
    /// See [`Filter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// See [`Filter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// See [`Filter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<When>,
    /// See [`Filter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
    /// See [`Filter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// These letters and no others.
    pub ids: Vec<LetterId>,
    /// Said by who means every letter there is.
    pub all: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Send also what the engine would refuse again.
    pub force: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Going on from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
}

impl ListRequest {
    /// From the pairs of a query.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut request = Self { filter: Filter::default(), limit: LIST_DEFAULT, after: None };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIST_MAX).contains(limit));
                    request.limit =
                        limit.ok_or_else(|| format!("limit={value} is not a number from 1 to {LIST_MAX}"))?;
                }
                "after" => request.after = Some(value.parse()?),
                name if request.filter.set(name, &value)? => {}
                _ => {
                    let known = "reason, key, since, until, partition, limit, after";
                    return Err(format!("there is no parameter {name:?}; there are {known}"));
                }
            }
        }
        Ok(request)
    }

    /// The query that says the same.
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.filter.pairs()).append_pair("limit", &self.limit.to_string());
        if let Some(after) = self.after {
            query.append_pair("after", &after.to_string());
        }
        query.finish()
    }
}

impl Action {
    /// Its name in addresses, answers and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Purge => "purge",
        }
    }
}

impl ChangeRequest {
    /// The filter alone.
    pub fn filter(&self) -> Filter {
        let Self { reason, key, since, until, partition, .. } = self.clone();
        Filter { reason, key, since, until, partition }
    }

    /// The same request for what `filter` lets pass.
    #[must_use]
    pub fn with_filter(self, filter: Filter) -> Self {
        let Filter { reason, key, since, until, partition } = filter;
        Self { reason, key, since, until, partition, ..self }
    }

    /// Says what is wrong with it. Nobody removes everything by forgetting to say what.
    pub fn check(&self) -> Result<(), String> {
        let has_filter = !self.filter().is_empty();
        if self.ids.is_empty() && !has_filter && !self.all {
            return Err(
                "say which letters: PARTITION:SEQ, or a filter (reason, key, since, until, partition), or all".into()
            );
        }
        if !self.ids.is_empty() && (has_filter || self.all || self.after.is_some() || self.limit.is_some()) {
            return Err("letters named one by one take no filter, no limit and no `all` beside them".into());
        }
        if self.all && has_filter {
            return Err("a filter and `all` contradict each other; say one of them".into());
        }
        if self.ids.len() > IDS_MAX {
            return Err(format!("{} letters are named; name at most {IDS_MAX} at once", self.ids.len()));
        }
        if self.limit == Some(0) {
            return Err("a limit is at least 1".into());
        }
        Ok(())
    }

    /// How many letters one request may change.
    pub(super) fn room(&self) -> usize {
        self.limit.unwrap_or(CHANGE_MAX).min(CHANGE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_back_as_they_went() {
        for query in ["limit=100", "reason=panic&key=%C3%BC+%26&since=2h&until=5m&partition=3&limit=7&after=3%3A17"] {
            assert_eq!(ListRequest::from_query(query).map(|request| request.to_query()), Ok(query.to_owned()));
        }
        assert_eq!(ListRequest::from_query("").map(|request| request.limit), Ok(LIST_DEFAULT));
        for query in ["limit=0", "limit=1001", "limit=x", "raeson=panic", "after=17", "reason=", "all"] {
            assert!(ListRequest::from_query(query).is_err(), "{query}");
        }
    }

    #[test]
    fn nobody_changes_everything_by_accident() {
        let check = |json: &str| serde_json::from_str::<ChangeRequest>(json).map_err(|e| e.to_string())?.check();
        for good in [
            r#"{"all":true}"#,
            r#"{"reason":"panic"}"#,
            r#"{"since":"2h","limit":5,"after":"0:1:9"}"#,
            r#"{"ids":["0:1","1:7"],"force":true,"dry_run":true}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "{}",
            r#"{"dry_run":true}"#,
            r#"{"raeson":"panic","all":true}"#,
            r#"{"reason":"panics"}"#,
            r#"{"reason":"panic","all":true}"#,
            r#"{"ids":["0:1"],"key":"ada"}"#,
            r#"{"ids":["0:1"],"all":true}"#,
            r#"{"ids":["17"]}"#,
            r#"{"all":true,"limit":0}"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
