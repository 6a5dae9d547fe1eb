//! Some of the features that change with time alone, and what it takes to say them: who asks for few does not pay for all.
//!
//! Pure.

use super::{
    set::{BUILT_IN, FeatureKind, FeatureSet},
    window::Span,
};

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
    /// Those of these features, by place and ascending, and perhaps the list of expired ones.
    pub(super) fn of(set: &FeatureSet, features: Vec<usize>, expired: bool) -> Self {
        let mut picked = Self { expired, ..Self::default() };
        if !features.is_empty() {
            picked.slots = vec![false; set.plans.len()];
            let (mut open, mut seen) = (features.clone(), vec![false; set.features.len()]);
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
        picked.features = features;
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
    /// Those of `names` that change with time alone.
    pub fn pick_changing<'a>(&self, names: impl Iterator<Item = &'a str>) -> Picked {
        let (mut features, mut expired) = (Vec::new(), false);
        for name in names {
            match self.place(name) {
                Some(place) if self.features[place].decays => features.push(place),
                Some(_) => {}
                None => expired |= self.expires && name == BUILT_IN[3],
            }
        }
        features.sort_unstable();
        features.dedup();
        Picked::of(self, features, expired)
    }
}
