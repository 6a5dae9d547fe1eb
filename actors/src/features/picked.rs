//! Some of the features that change with time alone, and what it takes to say them: who asks for few does not pay for all.
//!
//! Pure.

use super::{
    set::{BUILT_IN, FeatureKind, FeatureSet},
    window::Span,
};

/// One that changes with time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changing {
    /// A declared feature, by place.
    Feature(usize),
    /// The list of expired features.
    Expired,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Picked {
    /// By place, ascending.
    pub(super) features: Vec<usize>,
    /// Whether the list of expired features is among them.
    pub(super) expired: bool,
    /// The slots that they are computed from, by place; empty for none.
    slots: Vec<bool>,
    /// Whether they are computed from the newest session.
    pub(super) session: bool,
}

impl Picked {
    /// Those that [`FeatureSet::find_changing`] has found; each counts once.
    pub fn of(set: &FeatureSet, all: impl Iterator<Item = Changing>) -> Self {
        let mut picked = Self::default();
        for one in all {
            match one {
                Changing::Feature(place) => picked.features.push(place),
                Changing::Expired => picked.expired = true,
            }
        }
        picked.features.sort_unstable();
        picked.features.dedup();
        if !picked.features.is_empty() {
            picked.slots = vec![false; set.plans.len()];
            let (mut open, mut seen) = (picked.features.clone(), vec![false; set.features.len()]);
            while let Some(place) = open.pop() {
                if std::mem::replace(&mut seen[place], true) {
                    continue;
                }
                match &set.features[place].kind {
                    FeatureKind::Slot(slot) => {
                        picked.slots[*slot] = true;
                        picked.session |= set.plans[*slot].span == Span::Session;
                    }
                    FeatureKind::Session(_) => picked.session = true,
                    FeatureKind::Derived(derived) => open.extend(derived.inputs()),
                }
            }
        }
        picked
    }

    /// How many features these are.
    pub fn len(&self) -> usize {
        self.features.len() + usize::from(self.expired)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a slot is needed.
    pub(super) fn needs(&self, slot: usize) -> bool {
        self.slots.get(slot).copied().unwrap_or(false)
    }
}

impl FeatureSet {
    /// What changes with time alone under this name.
    pub fn find_changing(&self, name: &str) -> Option<Changing> {
        match self.place(name) {
            Some(place) => self.features[place].decays.then_some(Changing::Feature(place)),
            None => (self.expires && name == BUILT_IN[3]).then_some(Changing::Expired),
        }
    }
}
