//! From a request to log records, for every protocol: unpack, find the events, ask who may send, decode, judge each.
//!
//! CPU-bound, without I/O: runs on blocking threads where it takes long. Not here: the way to the log, see [`super::batch`].

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use keyloom_actors::{
    dead_letter::Reason,
    event::{
        dedupe_id,
        fields::{Field, Scanned},
    },
    ports::NewRecord,
    timestamp::{Clock, Timestamp},
};

use super::{
    accept::{Accepted, Acceptor, Found, Rejection},
    admission::Admissions,
    batch::{Answer, REJECTED_LISTED_MAX, Rejected},
    decode::{self, DecodeError, Encoding},
    gate::Hold,
    ids::IdSource,
    observe,
    protocols::{self, Head, Protocol, Stamps, Wire, event_shape::DecodedEvent},
    refusal::Refusal,
};
use crate::{
    access::{Denied, rules::Sender},
    ingest::refused::refused_by_tracker,
};

/// How much larger than the largest body its events may be when they are written out: what is said once for a whole request is
/// written for each of its events.
const WRITTEN_FACTOR_MAX: usize = 4;
/// The same for small limits, in bytes.
const WRITTEN_BYTES_MIN: usize = 1 << 20;
/// Bytes of written events for which the gate is asked at once.
const STEP_BYTES: usize = 64 << 10;

/// What it takes to turn a body into records, shared with blocking threads.
pub(super) struct Desk {
    pub(super) acceptor: Acceptor,
    pub(super) admissions: Admissions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: IdSource,
    pub(super) body_bytes_max: usize,
    pub(super) events_max: usize,
}

/// A request as it came in.
pub(super) struct Incoming {
    pub(super) wire: Wire,
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) encoding: Encoding,
    pub(super) hold: Hold,
}

/// A request's events, judged.
pub(super) struct Prepared {
    pub(super) partitions: BTreeMap<u32, Vec<NewRecord>>,
    /// The partition of the last good event.
    pub(super) last: Option<u32>,
    pub(super) answer: Answer,
    pub(super) hold: Hold,
}

/// Records of a request so far.
#[derive(Default)]
struct Judged {
    records: BTreeMap<u32, Vec<(NewRecord, Option<Found>)>>,
    last: Option<u32>,
    fields: Vec<Field>,
    answer: Answer,
}

impl Desk {
    pub(super) fn prepare(&self, incoming: Incoming) -> Result<Prepared, Refusal> {
        let Incoming { wire, head, body, encoding, mut hold } = incoming;
        let body = self.unpacked(body, encoding, &mut hold)?;
        let (now, protocol) = (self.clock.now(), wire.protocol());
        let outline = protocols::read(&wire, &body, &head, self.events_max)?;
        let shares = {
            let said = head.credentials.sender();
            let sender = Sender { write_key: said.write_key.or(outline.write_key()), ..said };
            let (address, events) = (head.credentials.address, outline.events());
            self.admissions.admit_each(&sender, address, events, outline.app_ids())?
        };
        observe::came_in(protocol, outline.events());
        let stamps = |index| {
            let admission = shares.outcomes[shares.at(index)].as_ref().ok();
            Stamps { now, address: admission.and_then(|a| a.stamped_address.as_deref()), head: &head }
        };
        let written = outline.write(&stamps, &mut self.room(&mut hold))?;
        let (text, events): (_, Box<dyn Iterator<Item = DecodedEvent>>) = match written {
            Some(decoded) => (Bytes::from(decoded.text), Box::new(decoded.events.into_iter())),
            None => {
                let as_sent = |place: Range<usize>| DecodedEvent { place: Ok(place.clone()), sent: place };
                (body.clone(), Box::new(outline.into_places().into_iter().map(as_sent)))
            }
        };
        let is_tracker = protocol.is_tracker();
        let treatments = shares.outcomes.iter().map(|share| share.as_ref().map(|a| a.privacy.rewriting(is_tracker)));
        let treatments: Vec<_> = treatments.collect();
        let envelope = self.acceptor.keys.note(&head);
        let mut judged = Judged::default();
        for (index, DecodedEvent { place, sent }) in events.enumerate() {
            let mut new_id = || self.ids.next(now);
            // The one place where an event of whatever protocol passes before it becomes a record: what the admission makes
            // private is made so before, and what a schema refuses is refused behind.
            let share = shares.at(index);
            let written = place.and_then(|place| {
                let rewriting = treatments[share].as_ref().map_err(|denied| turned_away(denied))?;
                self.acceptor.check_size(place.len())?; // before anything is made of it
                Ok(match rewriting.apply(&text[place.clone()]) {
                    Cow::Borrowed(_) => Ok(place),
                    Cow::Owned(changed) => Err(Bytes::from(changed)),
                })
            });
            let fields = &mut judged.fields;
            let judgement = match &written {
                Ok(Ok(place)) => {
                    self.acceptor.accept_slice_from(envelope.as_deref(), &text, place.clone(), fields, now, &mut new_id)
                }
                Ok(Err(changed)) => {
                    let (all, own) = (0..changed.len(), &mut Vec::new());
                    let judged =
                        self.acceptor.accept_slice_from(envelope.as_deref(), changed, all, own, now, &mut new_id);
                    judged.map(|(accepted, _)| (accepted, None))
                }
                Err(rejection) => Err(rejection.clone()),
            };
            match judgement {
                Ok((accepted, found)) => judged.accept(accepted, found),
                Err(rejection) if !protocol.is_tracker() => judged.reject(index, &rejection),
                Err(rejection) => {
                    let sent = body.get(sent).unwrap_or_default();
                    let written =
                        written.ok().map(|place| place.map_or_else(|changed| changed, |place| text.slice(place)));
                    let letter = match written {
                        Some(written) if rejection.reason == Reason::NoKey => Ok(keyless(written, sent)),
                        // As it was written, it is as private as the source wants it.
                        Some(written) => self.dead_letter(protocol, &rejection, sent, &written, now),
                        None => {
                            // Of what no source sent, nobody has said what may be kept.
                            let privacy = shares.outcomes[share].as_ref().ok().map(|admission| &admission.privacy);
                            let kept = privacy.and_then(|privacy| privacy.of_sent(sent, head.is_anonymous()));
                            self.dead_letter(protocol, &rejection, sent, &kept.unwrap_or_default(), now)
                        }
                    };
                    match letter {
                        Ok(letter) => {
                            observe::dead_lettered(protocol, rejection.reason);
                            judged.accept(letter, None);
                        }
                        Err(worse) => judged.reject(index, &worse), // only with an event limit of a few hundred bytes
                    }
                }
            }
        }
        Ok(judged.finish(hold))
    }

    /// The body as it was before it was packed.
    fn unpacked(&self, body: Bytes, encoding: Encoding, hold: &mut Hold) -> Result<Bytes, Refusal> {
        if encoding == Encoding::Identity {
            return Ok(body);
        }
        let packed = body.len();
        let unpacked = decode::decode(encoding, &body, self.body_bytes_max, &mut |more| hold.grow(more).is_ok());
        let body = Bytes::from(unpacked.map_err(|error| match error {
            DecodeError::TooLarge => Refusal::TooLarge(self.body_bytes_max),
            DecodeError::NoRoom => Refusal::Busy,
            DecodeError::Damaged(..) => Refusal::Malformed(error.to_string()),
        })?);
        hold.shrink(packed);
        Ok(body)
    }

    /// Lets decoded text grow as far as the limits and the gate allow.
    fn room<'h>(&self, hold: &'h mut Hold) -> impl FnMut(usize) -> Result<(), Refusal> + use<'h> {
        let max = self.body_bytes_max.saturating_mul(WRITTEN_FACTOR_MAX).max(WRITTEN_BYTES_MIN);
        let (mut total, mut asked_for) = (0usize, 0usize);
        move |more| {
            total = total.saturating_add(more);
            if total > max {
                return Err(Refusal::TooLarge(max));
            }
            if total - asked_for >= STEP_BYTES {
                hold.grow(total - asked_for)?;
                asked_for = total;
            }
            Ok(())
        }
    }

    /// The record that keeps `payload` of what a tracker sent and nobody can use; an error when the log takes not even that. Repeats
    /// are absorbed by what was `sent`: the payload may hold when it came, or nothing.
    fn dead_letter(
        &self,
        protocol: Protocol,
        rejection: &Rejection,
        sent: &[u8],
        payload: &[u8],
        now: Timestamp,
    ) -> Result<Accepted, Rejection> {
        let (bytes, max) = (sent.len() as u64, self.acceptor.event_bytes_max);
        let event = refused_by_tracker(rejection, protocol.label(), bytes, payload, max);
        let mut letter = self.acceptor.accept(&event, now, &mut || self.ids.next(now))?;
        letter.record.dedupe_id = Some(dedupe_id(b"", sent));
        Ok(letter)
    }
}

/// Why an event does not come in with the others of its request.
fn turned_away(denied: &Denied) -> Rejection {
    Rejection::new(Reason::Schema, format!("{denied}; {}", denied.hint()))
}

/// The record of a tracker's event without a key, which the engine will give up. It is stored as the event it is and not as a
/// rejection: once the topology finds its key, the dead letter can be sent again. `sent` is what repeats are absorbed by.
fn keyless(event: Bytes, sent: &[u8]) -> Accepted {
    let dedupe_id = Some(dedupe_id(b"", sent));
    Accepted { partition: 0, record: NewRecord { key: Bytes::new(), dedupe_id, payload: event, scanned: None } }
}

impl Judged {
    fn accept(&mut self, accepted: Accepted, found: Option<Found>) {
        self.last = Some(accepted.partition);
        self.records.entry(accepted.partition).or_default().push((accepted.record, found));
    }

    fn reject(&mut self, index: usize, rejection: &Rejection) {
        observe::rejected(rejection.reason);
        if self.answer.rejected.len() < REJECTED_LISTED_MAX {
            self.answer.rejected.push(Rejected { index, reason: rejection.to_string() });
        } else {
            self.answer.rejected_more += 1;
        }
    }

    fn finish(self, hold: Hold) -> Prepared {
        let fields = Arc::new(self.fields);
        let with_fields = |(record, found): (NewRecord, Option<Found>)| NewRecord {
            scanned: found.map(|(range, known)| Scanned::new(Arc::clone(&fields), range, known)),
            ..record
        };
        let with_fields =
            |(partition, records): (u32, Vec<_>)| (partition, records.into_iter().map(with_fields).collect());
        let partitions = self.records.into_iter().map(with_fields).collect();
        Prepared { partitions, last: self.last, answer: self.answer, hold }
    }
}
