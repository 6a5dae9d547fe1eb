//! A feature backend in a table of DynamoDB: one item per key, written on the condition that no later one is there.
//!
//! DynamoDB keeps what it has acknowledged, so the mark only says that the table is still the same one, and whose turn it
//! is. Tables are never created. The client is made with the first call: an engine starts without its backend.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    Client,
    config::{AppName, Config, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::{put_item::PutItemError, update_item::UpdateItemError},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use futures_util::{StreamExt, stream};
use keyloom_actors::{
    backend::{BackendError, FeatureBackend, Mark, Outcome, Put, Version},
    timestamp::SECOND,
};
use tokio::sync::OnceCell;

use super::{
    MARKS,
    dynamodb_answers::{self as answers, Answer},
};
use crate::aws::{self, AwsCredentials, NoWay, Way, causes};

/// Longest wait for a connection, TLS included, and for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Items of one call under way at once: some 10,000 a second at 5 ms each.
const PUTS_IN_FLIGHT: usize = 64;
/// Largest answer, in bytes: DynamoDB takes items of 400 KB, names of attributes and the key included.
const ANSWER_BYTES_MAX: usize = 390_000;
/// Attributes. `key` is the partition key of the table.
const KEY: &str = "key";
const ANSWER: &str = "answer";
const VERSION: &str = "version";
const MARK: &str = "mark";

/// Where the table is and how to get in.
#[derive(Clone, Debug, Default)]
pub struct DynamoOptions {
    /// The table. It must exist, with the partition key `key`, a string, and no sort key.
    pub table: String,
    /// What stands before each key.
    pub prefix: String,
    /// Answers have the attribute `expires`, this long after their event time.
    pub ttl: Option<Duration>,
    /// AWS region; absent, from the environment or the profile.
    pub region: Option<String>,
    /// Address of another service than AWS.
    pub endpoint: Option<String>,
    /// Profile of the AWS configuration files to take credentials and region from.
    pub profile: Option<String>,
    /// Fixed credentials.
    pub credentials: Option<AwsCredentials>,
}

/// See the module.
pub struct DynamoBackend {
    options: DynamoOptions,
    client: OnceCell<Client>,
}

type Item = HashMap<String, AttributeValue>;

impl DynamoBackend {
    /// Prepares it.
    pub fn new(options: DynamoOptions) -> Self {
        Self { options, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&Client, BackendError> {
        self.client.get_or_try_init(|| connect(&self.options)).await
    }

    fn mark_name(&self, partition: u32) -> String {
        format!("{MARKS}{partition}:{}", self.options.prefix)
    }

    fn mark_key(&self, partition: u32) -> AttributeValue {
        AttributeValue::S(self.mark_name(partition))
    }

    fn read_mark(&self, partition: u32, item: Option<&Item>) -> Result<Option<Mark>, BackendError> {
        let Some(value) = item.and_then(|item| item.get(MARK)) else { return Ok(None) };
        let mark = value.as_s().ok().and_then(|text| Mark::from_text(text));
        let foreign = || {
            let (name, table) = (self.mark_name(partition), &self.options.table);
            BackendError::Refused(format!("item {name} of table {table} is not a mark of ours: choose another prefix"))
        };
        mark.map(Some).ok_or_else(foreign)
    }

    fn item(&self, put: &Put) -> (Item, Option<String>) {
        let text = |text: String| AttributeValue::S(text);
        let number = |number: String| AttributeValue::N(number);
        let mut item = Item::from([
            (KEY.to_owned(), text(format!("{}{}", self.options.prefix, put.key.as_str()))),
            (VERSION.to_owned(), text(put.version.to_text())),
            ("seq".to_owned(), number(put.version.seq.to_string())),
            ("event_time".to_owned(), text(put.event_time.to_rfc3339())),
        ]);
        if let Some(ttl) = self.options.ttl {
            let expires = (put.event_time.0 / SECOND).saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
            item.insert("expires".to_owned(), number(expires.max(0).to_string()));
        }
        let bytes = put.answer.len();
        if bytes <= ANSWER_BYTES_MAX {
            item.insert(ANSWER.to_owned(), text(String::from_utf8_lossy(&put.answer).into_owned()));
            return (item, None);
        }
        // Rather none than one that is no longer true.
        let problem = format!("the answer has {bytes} bytes, DynamoDB takes {ANSWER_BYTES_MAX}: have fewer features");
        item.insert("problem".to_owned(), text(problem.clone()));
        (item, Some(problem))
    }

    async fn put_one(&self, client: &Client, put: &Put) -> Result<Outcome, BackendError> {
        let (item, unfit) = self.item(put);
        let sent = client
            .put_item()
            .table_name(&self.options.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#key) OR #version <= :version")
            .expression_attribute_names("#key", KEY)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":version", AttributeValue::S(put.version.to_text()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(unfit.map_or(Outcome::Written, Outcome::Unfit)),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    let held = refusal.item().and_then(|item| Version::from_text(item.get(VERSION)?.as_s().ok()?));
                    let foreign = || format!("{}{} is not an answer of ours", self.options.prefix, put.key.as_str());
                    Ok(held.map_or_else(|| Outcome::Unfit(foreign()), Outcome::Older))
                }
                _ => match self.judge(&error) {
                    Answer::Again(reason) => Ok(Outcome::Failed(reason)),
                    Answer::Unfit(reason) => Ok(Outcome::Unfit(reason)),
                    Answer::Refused(reason) => Err(BackendError::Refused(reason)),
                },
            },
        }
    }

    fn judge<E: ProvideErrorMetadata + std::error::Error + 'static, R: std::fmt::Debug>(
        &self,
        error: &SdkError<E, R>,
    ) -> Answer {
        let code = error.code().unwrap_or_default();
        let said = error.message().map_or_else(|| causes(error), |message| format!("{code}: {message}"));
        let is_answered = matches!(error, SdkError::ServiceError(_));
        answers::judge(&self.options.table, is_answered.then_some(code), &said)
    }

    fn failure<E: ProvideErrorMetadata + std::error::Error + 'static, R: std::fmt::Debug>(
        &self,
        error: &SdkError<E, R>,
    ) -> BackendError {
        match self.judge(error) {
            Answer::Again(reason) => BackendError::Unavailable(reason),
            Answer::Unfit(reason) | Answer::Refused(reason) => BackendError::Refused(reason),
        }
    }
}

async fn connect(options: &DynamoOptions) -> Result<Client, BackendError> {
    let way = Way {
        section: "[backend]",
        subject: "the feature backend",
        region: options.region.as_deref(),
        endpoint: options.endpoint.as_deref(),
        profile: options.profile.as_deref(),
        credentials: options.credentials.as_ref(),
    };
    let (shared, region) = aws::find(&way).await.map_err(|no_way| match no_way {
        NoWay::Unavailable(text) => BackendError::Unavailable(text),
        NoWay::Refused(text) => BackendError::Refused(text),
    })?;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(ANSWER_TIMEOUT).build();
    let mut config = Config::from(&shared)
        .to_builder()
        .region(Region::new(region))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    // Only the topology's address counts: one from elsewhere would go round the check that it is encrypted.
    config.set_endpoint_url(options.endpoint.clone());
    if let Ok(name) = AppName::new("keyloom") {
        config = config.app_name(name);
    }
    Ok(Client::from_conf(config.build()))
}

#[async_trait]
impl FeatureBackend for DynamoBackend {
    fn place(&self) -> String {
        let DynamoOptions { table, prefix, ttl, region, endpoint, .. } = &self.options;
        let ttl = ttl.map(|ttl| format!(", ttl {} s", ttl.as_secs())).unwrap_or_default();
        let at = endpoint.as_deref().or(region.as_deref()).unwrap_or("the region of the environment");
        format!("table {table} of dynamodb at {at}, prefix {prefix:?}{ttl}")
    }

    async fn mark(&self, partition: u32) -> Result<Option<Mark>, BackendError> {
        let get = self.client().await?.get_item().table_name(&self.options.table).consistent_read(true);
        let found = get.key(KEY, self.mark_key(partition)).send().await.map_err(|error| self.failure(&error))?;
        self.read_mark(partition, found.item.as_ref())
    }

    async fn put(
        &self,
        partition: u32,
        puts: &[Put],
        from: Option<Mark>,
        to: Mark,
    ) -> Result<Vec<Outcome>, BackendError> {
        let client = self.client().await?;
        let calls: Vec<_> = puts.iter().map(|put| self.put_one(client, put)).collect();
        let outcomes: Vec<Result<Outcome, BackendError>> = stream::iter(calls).buffered(PUTS_IN_FLIGHT).collect().await;
        let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        // Behind the answers: whoever finds the mark moved finds them too.
        let update = client.update_item().table_name(&self.options.table).key(KEY, self.mark_key(partition));
        let update = match from {
            None => update.condition_expression("attribute_not_exists(#mark) OR #mark = :to"),
            Some(from) => update
                .condition_expression("#mark = :from OR #mark = :to")
                .expression_attribute_values(":from", AttributeValue::S(from.to_text())),
        };
        let moved = update
            .update_expression("SET #mark = :to")
            .expression_attribute_names("#mark", MARK)
            .expression_attribute_values(":to", AttributeValue::S(to.to_text()))
            .send()
            .await;
        match moved {
            Ok(_) => Ok(outcomes),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Err(BackendError::Moved),
                _ => Err(self.failure(&error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyloom_actors::{key::Key, timestamp::Timestamp};

    use super::*;

    fn put(bytes: usize) -> Put {
        let version = Version { generation: 1, seq: 2, epoch: 3, number: 4 };
        let (key, event_time) = (Key::new("u").expect("a key"), Timestamp(7 * SECOND));
        Put { key, version, event_time, answer: Bytes::from(vec![b'x'; bytes]) }
    }

    #[test]
    fn an_item_says_what_a_reader_asks_for() {
        let options = DynamoOptions { prefix: "p:".into(), ttl: Some(Duration::from_secs(60)), ..Default::default() };
        let (item, unfit) = DynamoBackend::new(options).item(&put(3));
        let text = |name: &str| item[name].as_s().cloned().unwrap_or_default();
        assert_eq!((text("key"), text("answer"), unfit), ("p:u".to_owned(), "xxx".to_owned(), None));
        assert_eq!(text("event_time"), "1970-01-01T00:00:07.000000Z");
        assert_eq!((item["seq"].as_n(), item["expires"].as_n()), (Ok(&"2".to_owned()), Ok(&"67".to_owned())));
    }

    #[test]
    fn a_mark_that_nobody_of_us_left_is_refused_and_not_taken_for_none() {
        let backend = DynamoBackend::new(DynamoOptions { prefix: "p:".into(), ..Default::default() });
        let item = |name: &str, value| Item::from([(name.to_owned(), value)]);
        let mark = Mark { generation: 1, epoch: 2, count: 3, seq: 4 };
        let ours = item(MARK, AttributeValue::S(mark.to_text()));
        assert_eq!(backend.read_mark(3, Some(&ours)).expect("a mark"), Some(mark));
        let none = item("other", AttributeValue::S("x".into()));
        for absent in [None, Some(&none)] {
            assert_eq!(backend.read_mark(3, absent).expect("none"), None);
        }
        for value in [AttributeValue::S("x".into()), AttributeValue::N("7".into())] {
            let refused = backend.read_mark(3, Some(&item(MARK, value))).expect_err("foreign");
            assert!(matches!(&refused, BackendError::Refused(why) if why.contains("3:p:")), "{refused}");
        }
    }

    #[test]
    fn an_answer_that_is_too_large_leaves_none_that_is_no_longer_true() {
        let (item, unfit) = DynamoBackend::new(DynamoOptions::default()).item(&put(ANSWER_BYTES_MAX + 1));
        assert!(!item.contains_key(ANSWER) && item.contains_key(VERSION));
        assert!(unfit.is_some_and(|unfit| unfit.contains("390001 bytes")));
    }
}
