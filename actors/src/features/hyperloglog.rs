//! `approx_distinct`: how many values occurred, in bounded memory.
//!
//! Pure. HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007) with Ertl's improved estimator ("New cardinality estimation
//! algorithms for HyperLogLog sketches", arXiv:1702.01284, section 2), which needs no tables. The standard error is
//! 1.04 / sqrt(2^precision): 1.6 % at precision 12. Up to 2^precision / 8 values their hashes themselves are kept, and
//! the count is exact. Order does not matter, and two sketches put together are the sketch of all their values.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{slot::Plan, window::Aggregate};

/// Precision unless a definition says otherwise.
pub const PRECISION_DEFAULT: u8 = 12;
/// Least precision: 26 % standard error.
pub const PRECISION_MIN: u8 = 4;
/// Most precision: 0.4 % standard error, 64 KiB per value once there are many.
pub const PRECISION_MAX: u8 = 16;
/// The same for sliding windows, which may hold a sketch in each of their tiles.
pub const PRECISION_SLIDING_MAX: u8 = 12;

/// A sketch of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Sketch {
    /// Hashes, ascending.
    Few(Vec<u64>),
    /// Registers.
    Many(Vec<u8>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Sketch {
    pub(super) fn add(&mut self, precision: u8, value: &str) {
        self.add_hash(precision, xxh3_64(value.as_bytes()));
    }

    fn add_hash(&mut self, precision: u8, hash: u64) {
        match self {
            Self::Many(registers) => raise(registers, precision, hash),
            Self::Few(hashes) => {
                let Err(at) = hashes.binary_search(&hash) else { return };
                hashes.insert(at, hash);
                if hashes.len() > few_max(precision) {
                    self.densify(precision);
                }
            }
        }
    }

    fn densify(&mut self, precision: u8) {
        if let Self::Few(hashes) = self {
            let mut registers = vec![0u8; 1 << precision];
            hashes.iter().for_each(|hash| raise(&mut registers, precision, *hash));
            *self = Self::Many(registers);
        }
    }

    pub(super) fn count(&self, precision: u8) -> u64 {
        match self {
            Self::Few(hashes) => hashes.len() as u64,
            Self::Many(registers) => estimate(registers, precision),
        }
    }
}

impl Aggregate for Sketch {
    fn merged(tiles: &[(i64, Self)], plan: &Plan) -> Self {
        let mut hashes = Vec::new();
        for (_, tile) in tiles {
            if let Self::Few(few) = tile {
                hashes.extend_from_slice(few);
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        let mut all = Self::Few(hashes);
        if matches!(&all, Self::Few(hashes) if hashes.len() > few_max(plan.precision)) {
            all.densify(plan.precision);
        }
        tiles.iter().filter(|(_, tile)| matches!(tile, Self::Many(_))).for_each(|(_, tile)| all.merge(tile, plan));
        all
    }

    fn merge(&mut self, later: &Self, plan: &Plan) {
        match later {
            Self::Few(hashes) => hashes.iter().for_each(|hash| self.add_hash(plan.precision, *hash)),
            Self::Many(theirs) => {
                self.densify(plan.precision);
                if let Self::Many(ours) = self {
                    ours.iter_mut().zip(theirs).for_each(|(a, b)| *a = (*a).max(*b));
                }
            }
        }
    }

    fn is_sound(&self, plan: &Plan) -> bool {
        match self {
            Self::Few(hashes) => hashes.len() <= few_max(plan.precision) && hashes.is_sorted_by(|a, b| a < b),
            Self::Many(registers) => {
                registers.len() == 1 << plan.precision && registers.iter().all(|r| *r <= rank_max(plan.precision))
            }
        }
    }
}

/// Hashes take eight bytes each, registers one.
fn few_max(precision: u8) -> usize {
    (1 << precision) / 8
}

/// Bits that are left for the rank, and one more for "none of them is set".
fn rank_max(precision: u8) -> u8 {
    64 - precision + 1
}

fn raise(registers: &mut [u8], precision: u8, hash: u64) {
    let index = (hash >> (64 - precision)) as usize;
    let rank = ((hash << precision) | (1 << (precision - 1))).leading_zeros() as u8 + 1;
    if let Some(register) = registers.get_mut(index) {
        *register = (*register).max(rank);
    }
}

fn estimate(registers: &[u8], precision: u8) -> u64 {
    let m = registers.len() as f64;
    let q = 64 - usize::from(precision);
    let mut counts = [0u32; 66];
    registers.iter().for_each(|r| counts[usize::from(*r).min(65)] += 1);
    let mut z = m * tau(1.0 - f64::from(counts[q + 1]) / m);
    for k in (1..=q).rev() {
        z = 0.5 * (z + f64::from(counts[k]));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
}

/// x + Σ x^(2^k) 2^(k−1), for registers that are still 0.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// (1 − x − Σ (1 − x^(2^−k))² 2^−k) / 3, for registers that can rise no further.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_exact_and_many_are_within_four_standard_errors() {
        for precision in [PRECISION_MIN, 8, PRECISION_DEFAULT, PRECISION_MAX] {
            let mut sketch = Sketch::default();
            let error = 1.04 / f64::from(1u32 << precision).sqrt();
            for n in 1..=200_000u64 {
                sketch.add(precision, &format!("\"value {n}\""));
                sketch.add(precision, &format!("\"value {}\"", n / 2 + 1));
                if n as usize <= few_max(precision) {
                    assert_eq!(sketch.count(precision), n, "precision {precision}");
                } else if n.is_power_of_two() || n == 200_000 {
                    let off = (sketch.count(precision) as f64 - n as f64).abs() / n as f64;
                    assert!(off < 4.0 * error, "precision {precision}: {off} at {n}");
                }
            }
        }
    }
}
