//! The declared features of a topology, compiled: what every key shares.
//!
//! Pure. All problems are found at once. Definitions that say the same share a slot, equal predicates and values are
//! evaluated once per event.
//!
//! The hash of a definition covers what its value depends on: function, `of`, `where`, window, the other keys with their
//! defaults filled in, for sessions the gap, for derived features their inputs. It leaves out the name, so a feature that
//! is renamed keeps its state, and `ttl` and `lateness`, which say when a value is served and what counts as late.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    definition::{Definition, DefinitionProblem, Function, Settings},
    derived::Derived,
    expression::{Predicate, Source},
    picked::Picked,
    planning::{self, Planned, Problems},
    slot::Plan,
    typing::Type,
};

/// Most declared features.
pub const FEATURES_MAX: usize = 1_000;
/// Features that are there without being declared; the names are taken.
pub const BUILT_IN: [&str; 4] = ["late_events", "late_session_events", "cut_numbers", "expired_features"];
/// Most derived features in a row, each of the one before.
const DERIVED_DEPTH_MAX: usize = 16;

/// Compiled definitions.
#[derive(Debug, Default)]
pub struct FeatureSet {
    /// By name, ascending.
    pub(super) features: Vec<Feature>,
    /// By hash, ascending.
    pub(super) plans: Vec<Plan>,
    /// All features that change with time alone.
    pub(super) changing: Picked,
    pub(super) predicates: Vec<Predicate>,
    pub(super) sources: Vec<Source>,
    /// Slots by the value they take.
    pub(super) groups: Vec<Group>,
    pub(super) lateness: i64,
    pub(super) gap: i64,
    pub(super) sessions: bool,
    pub(super) numbers: bool,
    pub(super) expires: bool,
    /// See [`FeatureSet::split`].
    split: String,
}

/// Slots that take the same value.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) source: Option<usize>,
    pub(super) slots: Vec<usize>,
}

/// One feature.
#[derive(Debug)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) hash: u64,
    pub(super) kind: FeatureKind,
    pub(super) ttl: Option<i64>,
    /// Whether its value changes with time alone.
    pub(super) decays: bool,
    /// Whether it does by what its definition says, with or without a `ttl`.
    pub(super) decays_anyway: bool,
}

/// Where the value of a feature comes from.
#[derive(Debug)]
pub(super) enum FeatureKind {
    Slot(usize),
    Session(Function),
    Derived(Derived),
}

impl FeatureSet {
    /// Compiles `definitions`, names and what they say, or answers everything that is wrong with them.
    pub fn compile(definitions: Vec<(String, Definition)>, settings: Settings) -> Result<Self, Vec<DefinitionProblem>> {
        let mut problems = Problems::default();
        if definitions.len() > FEATURES_MAX {
            let text = format!("{} features are too many; at most {FEATURES_MAX} are allowed", definitions.len());
            problems.add(&definitions[FEATURES_MAX].0, "name", text, "remove some");
        }
        let definitions = planning::named(definitions, &mut problems);
        let mut building = Building { settings: &settings, ..Building::default_for(&settings) };
        for (name, definition) in definitions.iter().filter(|(_, d)| !d.function.is_derived()) {
            building.add(name, definition, &mut problems);
        }
        building.derive(&definitions, &mut problems);
        if !problems.list.is_empty() {
            return Err(problems.list);
        }
        Ok(building.finish())
    }

    /// Nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// How many features are declared.
    pub fn len(&self) -> usize {
        self.features.len()
    }

    /// Their names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(|feature| feature.name.as_str())
    }

    /// The names of those whose values change with time alone, ascending.
    pub fn decaying_names(&self) -> impl Iterator<Item = &str> {
        self.features.iter().filter(|feature| feature.decays).map(|feature| feature.name.as_str())
    }

    /// Whether some value changes with time alone.
    pub fn decays(&self) -> bool {
        !self.changing.features.is_empty()
    }

    /// What decides which part of an answer a feature stands in, and what is kept to say it again, in short: answers that
    /// were written with another one are read otherwise.
    pub fn split(&self) -> &str {
        &self.split
    }

    /// The hash of a feature's definition.
    pub fn hash_of(&self, name: &str) -> Option<u64> {
        self.place(name).map(|place| self.features[place].hash)
    }

    /// The hash of all definitions together with their names: the version of the set.
    pub fn hash(&self) -> u64 {
        let all: Vec<String> = self.features.iter().map(|f| format!("{}={:016x}", f.name, f.hash)).collect();
        xxh3_64(all.join("\n").as_bytes())
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.features.binary_search_by(|feature| feature.name.as_str().cmp(name)).ok()
    }
}

/// A set while it is compiled.
struct Building<'a> {
    settings: &'a Settings,
    set: FeatureSet,
    predicates: HashMap<String, usize>,
    sources: HashMap<String, usize>,
    /// What each slot takes, beside its plan.
    slots: Vec<(Plan, Option<usize>)>,
    types: BTreeMap<String, Type>,
}

impl<'a> Building<'a> {
    fn default_for(settings: &'a Settings) -> Self {
        let set = FeatureSet {
            lateness: planning::micros(settings.lateness),
            gap: planning::micros(settings.session_gap),
            ..FeatureSet::default()
        };
        let (predicates, sources, slots, types) = Default::default();
        Self { settings, set, predicates, sources, slots, types }
    }

    fn add(&mut self, name: &str, definition: &Definition, problems: &mut Problems) {
        let before = problems.list.len();
        let planned = planning::plan(name, definition, self.settings, problems);
        if problems.list.len() > before {
            // Others may name it: a second problem for them would say nothing.
            self.types.insert(name.to_owned(), Type::Any);
            return;
        }
        let Planned { mut plan, predicate, source, result, decays, canonical } = planned;
        self.types.insert(name.to_owned(), result);
        let function = definition.function;
        self.set.sessions |= function.is_of_session() || plan.span == super::window::Span::Session;
        self.set.numbers |= function.is_numeric() && function != Function::ExpDecay;
        let ttl = definition.ttl.map(planning::micros);
        self.set.expires |= ttl.is_some();
        let kind = if function.is_of_session() {
            FeatureKind::Session(function)
        } else {
            plan.filter = predicate.map(|(text, predicate)| {
                *self.predicates.entry(text).or_insert_with(|| {
                    self.set.predicates.push(predicate);
                    self.set.predicates.len() - 1
                })
            });
            let source = source.map(|(text, source)| {
                *self.sources.entry(text).or_insert_with(|| {
                    self.set.sources.push(source);
                    self.set.sources.len() - 1
                })
            });
            let known = self.slots.iter().position(|(known, _)| known.hash == plan.hash);
            FeatureKind::Slot(known.unwrap_or_else(|| {
                self.slots.push((plan, source));
                self.slots.len() - 1
            }))
        };
        let hash = xxh3_64(canonical.as_bytes());
        let (name, decays_anyway) = (name.to_owned(), decays);
        let decays = decays || ttl.is_some();
        self.set.features.push(Feature { name, hash, kind, ttl, decays, decays_anyway });
    }

    /// Compiles the features that are computed from others, inputs first.
    fn derive(&mut self, definitions: &[(String, Definition)], problems: &mut Problems) {
        let derived: Vec<_> = definitions.iter().filter(|(_, d)| d.function.is_derived()).collect();
        for (name, definition) in &derived {
            let function = definition.function;
            let result = if function == Function::Ratio { Type::Number } else { Type::Any };
            self.types.insert(name.clone(), result);
            planning::derived_keys(name, definition, problems);
        }
        // Places are by name, as they will be in the end.
        let mut names: Vec<&str> = definitions.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let place = |name: &str| names.binary_search(&name).ok();
        let mut compiled = BTreeMap::new();
        for (name, definition) in derived {
            let Some(text) = &definition.of else { continue };
            let types = self.types.iter().filter(|(n, _)| *n != name).map(|(n, t)| (n.as_str(), *t)).collect();
            match Derived::compile(definition.function, text, &types, place) {
                Ok((derived, _)) => drop(compiled.insert(name.as_str(), (definition.function, text, derived))),
                Err(wrong) => problems.wrong(name, "of", wrong),
            }
        }
        self.settle(compiled, &names, problems);
    }

    /// Adds derived features in the order in which they can be computed, and notes those that wait for each other.
    fn settle(
        &mut self,
        mut open: BTreeMap<&str, (Function, &String, Derived)>,
        names: &[&str],
        problems: &mut Problems,
    ) {
        for _ in 0..DERIVED_DEPTH_MAX {
            let is_open = |place: &usize| open.contains_key(names[*place]);
            let ready: Vec<&str> = open
                .iter()
                .filter(|(_, (_, _, derived))| !derived.inputs().iter().any(is_open))
                .map(|(name, _)| *name)
                .collect();
            for name in ready {
                let Some((function, text, derived)) = open.remove(name) else { continue };
                let inputs = derived.inputs();
                let input = |place: &usize| self.set.features.iter().find(|f| f.name == names[*place]);
                let decays = inputs.iter().filter_map(input).any(|feature| feature.decays);
                let hashes: Vec<String> =
                    inputs.iter().filter_map(input).map(|f| format!("{}={:016x}", f.name, f.hash)).collect();
                let canonical = format!("{}\n{}\n{}", function.name(), text.trim(), hashes.join(","));
                let hash = xxh3_64(canonical.as_bytes());
                let kind = FeatureKind::Derived(derived);
                let (name, decays_anyway) = (name.to_owned(), false);
                self.set.features.push(Feature { name, hash, kind, ttl: None, decays, decays_anyway });
            }
        }
        for (name, (_, _, derived)) in &open {
            let waits = derived.inputs().into_iter().map(|place| names[place]).find(|input| open.contains_key(input));
            let text =
                format!("needs {}, which needs this feature, or too many others in a row", waits.unwrap_or("itself"));
            problems.add(
                name,
                "of",
                text,
                &format!("break the circle; at most {DERIVED_DEPTH_MAX} may build on each other"),
            );
        }
    }

    /// Puts everything into its final order: features by name, slots by hash.
    fn finish(self) -> FeatureSet {
        let Self { mut set, slots, .. } = self;
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|slot| slots[*slot].0.hash);
        let mut moved = vec![0; slots.len()];
        order.iter().enumerate().for_each(|(to, from)| moved[*from] = to);
        let mut slots: Vec<_> = slots.into_iter().map(Some).collect();
        let mut groups: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (to, from) in order.into_iter().enumerate() {
            let Some((plan, source)) = slots[from].take() else { continue };
            set.plans.push(plan);
            groups.entry(source).or_default().push(to);
        }
        for (source, mut slots) in groups {
            slots.sort_by_key(|slot| set.plans[*slot].filter);
            set.groups.push(Group { source, slots });
        }
        set.features.sort_by(|a, b| a.name.cmp(&b.name));
        for feature in &mut set.features {
            if let FeatureKind::Slot(slot) = &mut feature.kind {
                *slot = moved[*slot];
            }
        }
        let changing = set.decaying_names().chain([BUILT_IN[3]]).filter_map(|name| set.find_changing(name));
        set.changing = Picked::of(&set, changing);
        let line = |f: &Feature| format!("{}={:016x} {:?} {}", f.name, f.hash, f.ttl, f.decays);
        let all: Vec<String> = set.features.iter().map(line).collect();
        set.split = format!("{:016x}", xxh3_64(all.join("\n").as_bytes()));
        set
    }
}
