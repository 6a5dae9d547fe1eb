//! The timers of one key: names and the times they are due.
//!
//! Pure. A part of the key's state: they come and go with it. Not here: when a partition finds that a timer is due
//! (`timer_index`, `ticker`), and what a handler does about it (`session::step`).

use compact_str::CompactString;

use super::Fault;
use crate::timestamp::Timestamp;

/// Timers of one key, at most. A limit, because they are encoded with its state.
pub const TIMERS_MAX: usize = 64;
/// Longest name of a timer, in bytes.
pub const TIMER_NAME_BYTES_MAX: usize = 64;

/// See the module. In order of their times, then of their names: the order they fire in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timers(Vec<(Timestamp, CompactString)>);

impl Timers {
    /// From what was stored, in any order.
    pub fn from_stored(mut timers: Vec<(Timestamp, CompactString)>) -> Self {
        timers.sort();
        Self(timers)
    }

    /// Sets timer `name`, or moves it. Too many, or a name too long, is a defect of the handler.
    pub fn set(&mut self, name: &str, due: Timestamp) -> Result<(), Fault> {
        if name.is_empty() || name.len() > TIMER_NAME_BYTES_MAX {
            let text = format!("a timer's name has 1 to {TIMER_NAME_BYTES_MAX} bytes, this one has {}", name.len());
            return Err(Fault::Crash(text));
        }
        self.cancel(name);
        if self.0.len() == TIMERS_MAX {
            return Err(Fault::Crash(format!("a key has at most {TIMERS_MAX} timers; {name:?} would be one more")));
        }
        let timer = (due, CompactString::new(name));
        let at = self.0.partition_point(|other| *other < timer);
        self.0.insert(at, timer);
        Ok(())
    }

    /// Removes timer `name`; true when there was one.
    pub fn cancel(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(_, other)| other != name);
        self.0.len() < before
    }

    /// When timer `name` is due, if it is set.
    pub fn due(&self, name: &str) -> Option<Timestamp> {
        self.0.iter().find(|(_, other)| other == name).map(|(due, _)| *due)
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.0.first().map(|(due, _)| *due)
    }

    /// Takes the next one that is due at `time` or before.
    pub fn take_due(&mut self, time: Timestamp) -> Option<(Timestamp, CompactString)> {
        self.next_due().filter(|due| *due <= time).map(|_| self.0.remove(0))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Timestamp, &str)> {
        self.0.iter().map(|(due, name)| (*due, name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_the_order_of_their_times_then_of_their_names() {
        let mut timers = Timers::default();
        for (name, due) in [("late", 9), ("b", 5), ("a", 5), ("moved", 1), ("gone", 2)] {
            timers.set(name, Timestamp(due)).expect("room");
        }
        timers.set("moved", Timestamp(7)).expect("it replaces itself");
        assert!(timers.cancel("gone") && !timers.cancel("gone"));
        assert_eq!((timers.due("moved"), timers.next_due()), (Some(Timestamp(7)), Some(Timestamp(5))));
        let mut fired = Vec::new();
        while let Some((_, name)) = timers.take_due(Timestamp(8)) {
            fired.push(name);
        }
        assert_eq!(fired, ["a", "b", "moved"]);
        assert_eq!(timers.iter().collect::<Vec<_>>(), [(Timestamp(9), "late")]);
    }

    #[test]
    fn more_than_fit_are_refused_and_moving_one_is_not_more() {
        let mut timers = Timers::default();
        for i in 0..TIMERS_MAX {
            timers.set(&i.to_string(), Timestamp(1)).expect("room");
        }
        assert!(timers.set("one more", Timestamp(1)).is_err());
        assert!(timers.set("0", Timestamp(2)).is_ok());
        assert!(Timers::default().set("", Timestamp(1)).is_err());
        assert!(Timers::default().set(&"n".repeat(TIMER_NAME_BYTES_MAX + 1), Timestamp(1)).is_err());
    }
}
