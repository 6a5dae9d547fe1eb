//! Snowplow's tracker protocol: many events in a `payload_data` (POST), or one in a query (GET).
//!
//! Pure. How one event is written is in `snowplow_event`; the parameters are in `snowplow_parameters`. Custom POST paths and
//! redirects (`/r/tp2`) are not spoken.

use std::borrow::Cow;

use super::{
    StampsOf,
    event_shape::{Decoded, Room},
    head::Head,
    members::{Given, Member, elements, get, members, parameters, place},
    not_the_protocol, snowplow_event, utf8,
};
use crate::front_door::refusal::Refusal;

/// What the schema of a body begins with.
const PAYLOAD_DATA: &str = "iglu:com.snowplowanalytics.snowplow/payload_data/";
const EXPECTED: &str = "a payload_data of Snowplow's tracker protocol, {\"schema\":...,\"data\":[{...}]}";

/// The events of one request.
#[derive(Debug)]
pub struct Payload<'a> {
    body: &'a [u8],
    /// Each event's JSON object; none where the event is in the query.
    objects: Vec<&'a str>,
    /// Parameters of the query: they count for every event, and before what its object says.
    query: Vec<Member<'a>>,
    is_query: bool,
}

/// Reads a POST body, and what its address adds.
pub fn read_body<'a>(body: &'a [u8], head: &'a Head, events_max: usize) -> Result<Payload<'a>, Refusal> {
    let refuse = not_the_protocol(EXPECTED);
    let envelope = members(utf8(body)?).map_err(&refuse)?;
    let schema = get(&envelope, "schema").and_then(Given::text);
    if schema.is_some_and(|schema| !schema.starts_with(PAYLOAD_DATA)) {
        return Err(Refusal::Malformed(format!("expected {EXPECTED}: the schema is another one")));
    }
    let data = get(&envelope, "data").and_then(Given::json).unwrap_or_default();
    let objects = elements(data, events_max).map_err(&refuse)?;
    let query = parameters(&head.query).map_err(&refuse)?;
    Ok(Payload { body, objects, query, is_query: false })
}

/// Reads the query of a GET.
pub fn read_query(query: &[u8]) -> Result<Payload<'_>, Refusal> {
    let text = std::str::from_utf8(query).map_err(|_| Refusal::Malformed("the query is not text".to_owned()))?;
    let parameters = parameters(text).map_err(not_the_protocol("the parameters of one event"))?;
    if parameters.is_empty() {
        return Err(Refusal::Empty);
    }
    Ok(Payload { body: query, objects: Vec::new(), query: parameters, is_query: true })
}

impl Payload<'_> {
    /// How many events there are.
    pub fn events(&self) -> usize {
        if self.is_query { 1 } else { self.objects.len() }
    }

    /// The application that each event says it is of, in their order. One body may hold events of several: a server may send
    /// those of all its trackers together.
    pub fn app_ids(&self) -> impl Iterator<Item = Option<Cow<'_, str>>> {
        let of_query = get(&self.query, "aid").and_then(Given::text);
        (0..self.events()).map(move |at| {
            let own = || members(self.objects.get(at)?).ok()?.into_iter().find(|m| m.name == "aid")?.value.text();
            of_query.clone().or_else(own).filter(|id| !id.is_empty())
        })
    }

    /// Writes the events.
    pub fn write(&self, stamps: StampsOf<'_, '_>, room: Room<'_>) -> Result<Decoded, Refusal> {
        let mut decoded = Decoded::default();
        let query = snowplow_event::Query::new(&self.query);
        if self.is_query {
            decoded.event(0..self.body.len(), room, |out| snowplow_event::write(&query, &[], &stamps(0), out))?;
        }
        for (at, object) in self.objects.iter().enumerate() {
            decoded.event(place(self.body, object), room, |out| {
                let own = snowplow_event::object(object)?;
                snowplow_event::write(&query, &own, &stamps(at), out)
            })?;
        }
        Ok(decoded)
    }
}

#[cfg(test)]
#[path = "snowplow_tests.rs"]
mod tests;
