//! What a batch of Segment's HTTP API says for all of its messages: read once, and put together with what a message says.
//!
//! Pure. Only what is written is bounded by the room that the front door gives, so what a message costs must be bounded by its
//! own length and by what is written of it: nothing of the batch is read again for a message, and a message's names are looked
//! up among those of the batch, not the other way round.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use keyloom_actors::{dead_letter::Reason, event::fields::Kind, timestamp::Timestamp};

use super::{
    event_shape::{EventWriter, write_text},
    members::{Given, MEMBERS_MAX, Member, Unread, get, members},
    segment_message::time,
};
use crate::front_door::Rejection;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared<'a> {
    /// When the batch was sent, if that is a time.
    pub(super) sent: Option<Timestamp>,
    /// All but what says nothing and the context.
    others: Named<'a>,
    context: Option<Result<SharedContext<'a>, Unread>>,
}

impl<'a> Shared<'a> {
    /// Of the members of a batch but the messages.
    pub(super) fn of(said: &[Member<'a>]) -> Self {
        let is_other = |member: &&Member<'a>| match member.value.kind() {
            Kind::Null => false,
            Kind::Object => member.name != "context",
            _ => true,
        };
        Self {
            sent: time(said, "sentAt"),
            others: Named::of(said.iter().filter(is_other).cloned().collect()),
            context: object_text(said, "context").map(SharedContext::of),
        }
    }

    /// Keeps what a batch says beside its context in `extra` of a message that says `own`.
    pub(super) fn write_others(&self, own: &[Member<'_>], took_sent: bool, event: &mut EventWriter<'_>) {
        let clashing = self.others.named_in(own.iter().filter(|member| !member.value.is_null()));
        for (at, Member { name, value }) in self.others.members.iter().enumerate() {
            match name.as_ref() {
                "sentAt" if took_sent => {}
                name if clashing.contains(&at) => event.extra(&format!("batch.{name}"), value),
                name => event.extra(name, value),
            }
        }
    }
}

/// The context of a batch.
#[derive(Debug)]
struct SharedContext<'a> {
    text: &'a str,
    members: Named<'a>,
    page: Result<Vec<Member<'a>>, Unread>,
    library: Result<Vec<Member<'a>>, Unread>,
}

impl<'a> SharedContext<'a> {
    fn of(text: &'a str) -> Result<Self, Unread> {
        let said = members(text)?;
        let part = |name| object_text(&said, name).map_or(Ok(Vec::new()), members);
        Ok(Self { text, page: part("page"), library: part("library"), members: Named::of(said) })
    }
}

/// Members that are looked up by their names for each message.
#[derive(Debug, Default)]
struct Named<'a> {
    members: Vec<Member<'a>>,
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Named<'a> {
    fn of(members: Vec<Member<'a>>) -> Self {
        let places = members.iter().enumerate().map(|(at, member)| (member.name.clone(), at)).collect();
        Self { members, places }
    }

    fn get(&self, name: &str) -> Option<&Given<'a>> {
        self.places.get(name).map(|at| &self.members[*at].value)
    }

    /// Where those are whose names are among the names of `others`.
    fn named_in<'m>(&self, others: impl Iterator<Item = &'m Member<'m>>) -> HashSet<usize> {
        others.filter_map(|other| self.places.get(other.name.as_ref()).copied()).collect()
    }
}

/// The context of a message with what its batch adds; what the message says counts.
pub(super) struct Context<'m> {
    text: Option<&'m str>,
    own: Vec<Member<'m>>,
    shared: Option<&'m SharedContext<'m>>,
    /// Members of the batch's that do not count.
    clashing: HashSet<usize>,
}

impl<'m> Context<'m> {
    /// Of a message that says `own`. Whether it can be read is known before anything of it is written.
    pub(super) fn of(own: &[Member<'m>], shared: &'m Shared<'m>) -> Result<Self, Rejection> {
        let text = object_text(own, "context");
        let own = text.map_or(Ok(Vec::new()), |text| inside("context", text))?;
        let name = if text.is_some() { "context of the batch" } else { "context" };
        let shared = shared.context.as_ref().map(|read| read.as_ref().map_err(|unread| unreadable(name, unread)));
        let shared = shared.transpose()?;
        let clashing = shared.map(|shared| shared.members.named_in(own.iter())).unwrap_or_default();
        let added = shared.map_or(0, |shared| shared.members.members.len() - clashing.len());
        if own.len() + added > MEMBERS_MAX {
            return Err(unreadable("context", &Unread::TooMany(MEMBERS_MAX)));
        }
        Ok(Self { text, own, shared, clashing })
    }

    /// The member with this name.
    pub(super) fn get(&self, name: &str) -> Option<&Given<'m>> {
        get(&self.own, name).or_else(|| self.shared?.members.get(name))
    }

    /// The members of its `page`.
    pub(super) fn page(&self) -> Result<Cow<'m, [Member<'m>]>, Rejection> {
        self.part("page", |shared| &shared.page)
    }

    /// The members of its `library`.
    pub(super) fn library(&self) -> Result<Cow<'m, [Member<'m>]>, Rejection> {
        self.part("library", |shared| &shared.library)
    }

    fn part(
        &self,
        name: &str,
        of_batch: impl FnOnce(&'m SharedContext<'m>) -> &'m Result<Vec<Member<'m>>, Unread>,
    ) -> Result<Cow<'m, [Member<'m>]>, Rejection> {
        let path = || format!("context.{name}");
        match (get(&self.own, name), self.shared) {
            (None, None) => Ok(Cow::Borrowed(&[])),
            (None, Some(shared)) => match of_batch(shared) {
                Ok(members) => Ok(Cow::Borrowed(members)),
                Err(unread) => Err(unreadable(&path(), unread)),
            },
            (Some(_), _) => {
                let own = object_text(&self.own, name).map_or(Ok(Vec::new()), |text| inside(&path(), text));
                own.map(Cow::Owned)
            }
        }
    }

    /// Writes the field.
    pub(super) fn write(&self, event: &mut EventWriter<'_>) {
        let text = match (self.text, self.shared) {
            (None, None) => return,
            (Some(own), None) => Cow::Borrowed(own),
            (None, Some(shared)) => Cow::Borrowed(shared.text),
            (Some(_), Some(shared)) => Cow::Owned(self.merged(shared)),
        };
        event.json("context", &text);
    }

    fn merged(&self, shared: &SharedContext<'_>) -> String {
        let added = shared.members.members.iter().enumerate().filter(|(at, _)| !self.clashing.contains(at));
        let mut out = Vec::new();
        for Member { name, value } in self.own.iter().chain(added.map(|(_, member)| member)) {
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_text(&mut out, name);
            out.push(b':');
            out.extend_from_slice(value.json().unwrap_or("null").as_bytes());
        }
        if out.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default()
    }
}

/// The text of the member with this name, where it is an object.
pub(super) fn object_text<'a>(members: &[Member<'a>], name: &str) -> Option<&'a str> {
    get(members, name)?.json().filter(|json| json.starts_with('{'))
}

/// The members of `json`, which a message names `name`.
pub(super) fn inside<'a>(name: &str, json: &'a str) -> Result<Vec<Member<'a>>, Rejection> {
    members(json).map_err(|unread| unreadable(name, &unread))
}

fn unreadable(name: &str, unread: &Unread) -> Rejection {
    Rejection::new(Reason::Schema, format!("{name}: {unread}"))
}
