//! `count`, `sum`, `avg`, `stddev`, `min`, `max`: exact integers, so that neither order nor parts matter.
//!
//! Pure. `stddev` is of the population: the root of the mean squared distance from the mean, 0 for a single value. Sums
//! that no i128 can hold stop at its end; with numbers of at most 2^90 units that takes 2^37 events.

use ethnum::U256;
use serde::{Deserialize, Serialize};

use super::{decimal::Decimal, slot::Plan, value::Value, window::Aggregate};

/// How many events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Count(pub(super) u64);

impl Aggregate for Count {
    fn merge(&mut self, later: &Self, _: &Plan) {
        self.0 = self.0.saturating_add(later.0);
    }

    fn is_sound(&self, _: &Plan) -> bool {
        true
    }
}

/// How many numbers, and their sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sum {
    count: u64,
    sum: i128,
}

impl Sum {
    pub(super) fn add(&mut self, units: i128) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(units);
    }

    pub(super) fn sum(&self, scale: u8) -> Value {
        Value::Decimal(Decimal { units: self.sum, scale })
    }

    pub(super) fn average(&self, scale: u8) -> Value {
        if self.count == 0 {
            return Value::Null;
        }
        Value::Float(self.sum as f64 / self.count as f64 / 10f64.powi(i32::from(scale)))
    }
}

impl Aggregate for Sum {
    fn merge(&mut self, later: &Self, _: &Plan) {
        self.count = self.count.saturating_add(later.count);
        self.sum = self.sum.saturating_add(later.sum);
    }

    fn is_sound(&self, _: &Plan) -> bool {
        true
    }
}

/// What a standard deviation is computed from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    sum: Sum,
    /// Sum of the squares: high and low half.
    squares: (u128, u128),
}

impl Spread {
    pub(super) fn add(&mut self, units: i128) {
        self.sum.add(units);
        let size = units.unsigned_abs();
        let square = size.checked_mul(size).map_or_else(|| U256::from(size) * U256::from(size), U256::from);
        self.add_squares(square.into_words());
    }

    fn add_squares(&mut self, (high, low): (u128, u128)) {
        let (low, carry) = self.squares.1.overflowing_add(low);
        let high = self.squares.0.saturating_add(high).saturating_add(u128::from(carry));
        self.squares = (high, low);
    }

    /// Root of (n·Q − S²) / n², with n·Q − S² exact.
    pub(super) fn deviation(&self, scale: u8) -> Value {
        let n = self.sum.count;
        if n == 0 {
            return Value::Null;
        }
        let squares = U256::from_words(self.squares.0, self.squares.1);
        let sum = U256::from(self.sum.sum.unsigned_abs());
        let scaled = squares.saturating_mul(U256::from(n));
        let (high, low) = scaled.saturating_sub(sum.saturating_mul(sum)).into_words();
        let distance = high as f64 * 2f64.powi(128) + low as f64;
        Value::Float(distance.sqrt() / n as f64 / 10f64.powi(i32::from(scale)))
    }
}

impl Aggregate for Spread {
    fn merge(&mut self, later: &Self, plan: &Plan) {
        self.sum.merge(&later.sum, plan);
        self.add_squares(later.squares);
    }

    fn is_sound(&self, _: &Plan) -> bool {
        true
    }
}

/// The smallest and the largest number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Extremes(Option<(i128, i128)>);

impl Extremes {
    pub(super) fn add(&mut self, units: i128) {
        self.0 = Some(self.0.map_or((units, units), |(min, max)| (min.min(units), max.max(units))));
    }

    pub(super) fn min(&self, scale: u8) -> Value {
        self.0.map_or(Value::Null, |(units, _)| Value::Decimal(Decimal { units, scale }))
    }

    pub(super) fn max(&self, scale: u8) -> Value {
        self.0.map_or(Value::Null, |(_, units)| Value::Decimal(Decimal { units, scale }))
    }
}

impl Aggregate for Extremes {
    fn merge(&mut self, later: &Self, _: &Plan) {
        if let Some((min, max)) = later.0 {
            self.add(min);
            self.add(max);
        }
    }

    fn is_sound(&self, _: &Plan) -> bool {
        self.0.is_none_or(|(min, max)| min <= max)
    }
}
