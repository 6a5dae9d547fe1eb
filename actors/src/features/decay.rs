//! `exp_decay`: a sum in which what happened counts half as much after each half-life.
//!
//! Pure. Kept as the sum at a *landmark*, a multiple of the half-life: an event adds `value · 2^((time − landmark) /
//! half_life)` whatever came before it, and moving the landmark multiplies by a power of two, which is exact. So only
//! the rounding of additions depends on the order of events: this is floating point, equal on replay, and equal within
//! about 1e-12 in another order.

use serde::{Deserialize, Serialize};

use super::value::Value;

/// The landmark moves when events are this many half-lives ahead of it: far from where `f64` ends.
const AHEAD_MAX: i64 = 256;

/// A decaying sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Decay {
    /// The landmark, in half-lives since 1970-01-01 UTC.
    landmark: i64,
    /// The sum at the landmark.
    sum: f64,
}

impl Decay {
    pub(super) fn add(&mut self, half_life: i64, time: i64, value: f64) {
        let ahead = time.div_euclid(half_life).saturating_sub(self.landmark);
        if self.sum == 0.0 {
            self.landmark = time.div_euclid(half_life);
        } else if ahead > AHEAD_MAX {
            self.sum *= power(-ahead);
            self.landmark = time.div_euclid(half_life);
        }
        let sum = self.sum + value * self.factor(half_life, time);
        if sum.is_finite() {
            self.sum = sum;
        }
    }

    /// 2^((time − landmark) / half_life)
    fn factor(&self, half_life: i64, time: i64) -> f64 {
        let part = time.rem_euclid(half_life) as f64 / half_life as f64;
        power(time.div_euclid(half_life).saturating_sub(self.landmark)) * part.exp2()
    }

    pub(super) fn value(&self, half_life: i64, now: i64) -> Value {
        if self.sum == 0.0 {
            return Value::Float(0.0);
        }
        let part = now.rem_euclid(half_life) as f64 / half_life as f64;
        let whole = self.landmark.saturating_sub(now.div_euclid(half_life));
        Value::Float(self.sum * power(whole) / part.exp2())
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sum.is_finite()
    }
}

/// A power of two, exactly; 0 where there is none.
fn power(exponent: i64) -> f64 {
    2f64.powi(exponent.clamp(-2_000, 1_000) as i32)
}
