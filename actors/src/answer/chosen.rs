//! The features that somebody asks for, and how they are cut out of an answer.
//!
//! Pure. Only features that stay as they are until the next event are cut: those that change with time alone are said anew,
//! see [`super::Stored`].

use std::ops::Range;

use hashbrown::{HashMap, HashSet, hash_map::Entry};

use crate::{
    event::members::{self, members},
    features::{FeatureSet, Picked},
};

/// The features that somebody asks for, by name.
#[derive(Debug, Default)]
pub struct Chosen {
    /// By name, as JSON writes it, without quotes.
    places: HashMap<Box<[u8]>, Asked>,
    /// Those that change with time alone.
    changing: Picked,
    /// The names in the last answer that was cut, as they stand there up to the value, and what they are to us: keys mostly
    /// have the same features in the same order, and then no name has to be looked up.
    layout: Vec<(Name, Wanted)>,
}

/// A name with its quotes and the colon behind it, to be found at the beginning of a text: once per feature and key, so the
/// usual short one is compared in one step.
#[derive(Debug)]
struct Name {
    text: Box<[u8]>,
    /// The first eight bytes; where there are fewer, the others are masked.
    start: u64,
    mask: u64,
}

impl Name {
    const START: usize = size_of::<u64>();

    fn new(text: &[u8]) -> Self {
        let mut start = [0; Self::START];
        let length = text.len().min(Self::START);
        start[..length].copy_from_slice(&text[..length]);
        let mask = u64::MAX.checked_shr(8 * (Self::START - length) as u32).unwrap_or(0);
        Self { text: text.into(), start: u64::from_le_bytes(start), mask }
    }

    /// What follows it.
    fn strip<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let Some(start) = text.first_chunk() else { return text.strip_prefix(&self.text[..]) };
        if u64::from_le_bytes(*start) & self.mask != self.start {
            return None;
        }
        let rest = text.get(self.text.len()..)?;
        let is_short = self.text.len() <= Self::START;
        (is_short || text[Self::START..self.text.len()] == self.text[Self::START..]).then_some(rest)
    }
}

#[derive(Debug)]
struct Asked {
    place: usize,
    wanted: Wanted,
}

/// What a name in an answer is to those who chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    No,
    /// It stands among those that stay as they are until the next event.
    Lasting,
    /// It stands among those that change with time alone.
    Changing,
}

impl Chosen {
    /// The features with these names; a name counts once, at its first place.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, set: &FeatureSet) -> Self {
        let mut chosen = Self::default();
        let mut changing = Vec::new();
        for (place, name) in names.into_iter().enumerate() {
            let json = serde_json::to_vec(name).expect("a string in memory serializes");
            if let Entry::Vacant(free) = chosen.places.entry(json[1..json.len() - 1].into()) {
                let found = set.find_changing(name);
                free.insert(Asked { place, wanted: if found.is_some() { Wanted::Changing } else { Wanted::Lasting } });
                changing.extend(found);
            }
        }
        chosen.changing = Picked::of(set, changing.into_iter());
        chosen
    }

    /// The place of a name, as JSON writes it without quotes.
    pub fn place(&self, name: &[u8]) -> Option<usize> {
        self.places.get(name).map(|asked| asked.place)
    }

    /// Those that change with time alone.
    pub(super) fn changing(&self) -> &Picked {
        &self.changing
    }

    /// How many names are asked for.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Appends those of `members` that are chosen, pieces that stand together at once; says how many.
    pub(super) fn cut(&mut self, members: &[u8], out: &mut Vec<u8>) -> usize {
        let (from, mut written, mut rest) = (out.len(), 0, members);
        let mut piece = 0..0;
        let mut append = |piece: &mut Range<usize>| {
            if piece.start < piece.end {
                if out.len() > from {
                    out.push(b',');
                }
                out.extend_from_slice(&members[piece.clone()]);
                *piece = 0..0;
            }
        };
        // Behind the last of them nothing is read: it mostly is what takes longest, because it comes from memory.
        let mut to_find = self.places.len() - self.changing.len();
        for place in 0.. {
            if to_find == 0 {
                break;
            }
            let start = members.len() - rest.len() + usize::from(rest.starts_with(b","));
            let Some((wanted, value)) = self.recognise(place, &members[start..]) else { break };
            let Some(length) = members::value_end(value) else { break };
            rest = &value[length..];
            if wanted == Wanted::No {
                append(&mut piece);
                continue;
            }
            if piece.start == piece.end {
                piece.start = start;
            }
            piece.end = members.len() - rest.len();
            written += 1;
            to_find -= usize::from(wanted == Wanted::Lasting);
        }
        append(&mut piece);
        written
    }

    /// What the member at the beginning of `text`, the `place`-th of its answer, is to us; and what follows its name.
    fn recognise<'t>(&mut self, place: usize, text: &'t [u8]) -> Option<(Wanted, &'t [u8])> {
        if let Some((name, wanted)) = self.layout.get(place)
            && let Some(value) = name.strip(text)
        {
            return Some((*wanted, value));
        }
        let end = members::string_end(text)?;
        let value = text[end..].strip_prefix(b":")?;
        let wanted = self.places.get(&text[1..end - 1]).map_or(Wanted::No, |asked| asked.wanted);
        let known = (Name::new(&text[..=end]), wanted);
        match self.layout.get_mut(place) {
            Some(other) => *other = known,
            None => self.layout.push(known),
        }
        Some((wanted, value))
    }

    pub(super) fn write_missing(&self, out: &mut Vec<u8>, features: Range<usize>) {
        let names = self.not_in(&out[features]).join(&b"\",\""[..]);
        out.extend_from_slice(b",\"missing\":[\"");
        out.extend_from_slice(&names);
        out.extend_from_slice(b"\"]");
    }

    /// The names that `features`, as [`super::Stored::write_features`] wrote them, do not have.
    pub fn missing(&self, features: &[u8]) -> Vec<String> {
        if members(features).count() >= self.places.len() {
            return Vec::new();
        }
        let read = |name: &[u8]| serde_json::from_slice(&[b"\"", name, b"\""].concat()).unwrap_or_default();
        self.not_in(features).into_iter().map(read).collect()
    }

    /// The same as JSON writes them, without quotes, in the order asked.
    fn not_in(&self, features: &[u8]) -> Vec<&[u8]> {
        let there: HashSet<&[u8]> = members(features).map(|(name, _)| name).collect();
        let mut missing: Vec<_> = self.places.iter().filter(|(name, _)| !there.contains(&name[..])).collect();
        missing.sort_by_key(|(_, asked)| asked.place);
        missing.into_iter().map(|(name, _)| &name[..]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            Stored,
            tests::{AT, json, stored},
        },
        *,
    };

    proptest! {
        #[test]
        fn answers_of_any_layout_are_cut_one_after_the_other(
            answers in proptest::collection::vec(proptest::collection::vec("[a-f\"]{0,2}|a{3,7}b{0,2}", 0..9), 1..6),
            wanted in proptest::collection::hash_set("[a-f\"]{0,2}|a{3,7}b{0,2}", 0..6),
        ) {
            let none = FeatureSet::default();
            let mut chosen = Chosen::new(wanted.iter().map(String::as_str), &none);
            for names in answers {
                let stored = stored(None, |features| {
                    let mut said = HashSet::new();
                    names.iter().filter(|name| said.insert(*name)).for_each(|name| features.set(name, &name.len()));
                });
                let mut expected = json(&stored)["features"].as_object().expect("features").clone();
                expected.retain(|name, _| wanted.contains(name));
                let mut out = b"{".to_vec();
                let parts = Stored::parse(&stored).expect("an answer");
                let written = parts.write_features(&mut out, &none, AT, Some(&mut chosen)).expect("sound");
                out.push(b'}');
                prop_assert_eq!((written, json(&out)), (expected.len(), expected.into()));
            }
        }
    }
}
