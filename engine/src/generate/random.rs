//! Reproducible randomness for the generator: small, fast, the same on every run. Not for secrets.
//!
//! Pure. The generator is xoshiro256** seeded through SplitMix64, both by Blackman and Vigna ("Scrambled Linear
//! Pseudorandom Number Generators", ACM TOMS 47(4), 2021; reference text in the public domain). Ranks follow Zipf's law
//! by rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", ACM TOMACS 6(3), 1996): no table, so a hundred million users cost as little as ten.

/// SplitMix64's step: the odd number nearest to 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finalizer: a bijection, so different inputs never share an output.
pub(super) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(GOLDEN);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Whether a hash falls into `share` (0 to 1) of all hashes: a decision that sticks to what was hashed.
pub(super) fn falls_in(hash: u64, share: f64) -> bool {
    unit(hash) < share
}

/// The upper 53 bits as a number in 0 <= n < 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// xoshiro256**.
#[derive(Clone, Debug)]
pub(super) struct Random([u64; 4]);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Four outputs of a bijection of four different inputs: never all zero, which would be a fixed point.
        Self([0, 1, 2, 3].map(|i: u64| mix(seed.wrapping_add(GOLDEN.wrapping_mul(i)))))
    }

    pub(super) fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in 0 <= n < 1.
    pub(super) fn unit(&mut self) -> f64 {
        unit(self.next())
    }

    /// True in `share` (0 to 1) of the calls.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A number below `limit`, 0 when that is 0. The bias is below limit / 2^64: nothing, here.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// A waiting time with this mean, as between independent arrivals.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }
}

/// Ranks 0 .. n, where rank k is drawn in proportion to 1 / (k + 1)^exponent.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    n: f64,
    exponent: f64,
    integral_first: f64,
    integral_last: f64,
    accept: f64,
}

impl Zipf {
    pub(super) fn new(n: u64, exponent: f64) -> Self {
        let n = n.max(1) as f64;
        let mut zipf = Self { n, exponent, integral_first: 0.0, integral_last: 0.0, accept: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(n + 0.5);
        zipf.accept = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    pub(super) fn sample(&self, random: &mut Random) -> u64 {
        // Each round accepts with a probability above 0.7 for every exponent, so this ends; the bound is for the reader.
        for _ in 0..64 {
            let area = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let x = self.inverse(area);
            let rank = (x + 0.5).floor().clamp(1.0, self.n);
            if rank - x <= self.accept || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64 - 1;
            }
        }
        0
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the weight from 1 to `x`; written so that an exponent at or near 1 keeps its digits.
    fn integral(&self, x: f64) -> f64 {
        let q = 1.0 - self.exponent;
        if q.abs() < 1e-9 { x.ln() } else { (q * x.ln()).exp_m1() / q }
    }

    fn inverse(&self, area: f64) -> f64 {
        let q = 1.0 - self.exponent;
        if q.abs() < 1e-9 { area.exp() } else { ((q * area).max(-1.0).ln_1p() / q).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_law_for_flat_usual_and_steep_exponents() {
        for exponent in [0.0, 0.5, 1.0, 1.3, 2.0] {
            let (n, draws) = (1_000u64, 400_000);
            let (zipf, mut random) = (Zipf::new(n, exponent), Random::new(7));
            let mut seen = vec![0u32; n as usize];
            for _ in 0..draws {
                seen[zipf.sample(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=n).map(|k| (k as f64).powf(-exponent)).sum();
            for rank in [1u64, 2, 3, 10, 100, 1_000] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / total;
                let got = f64::from(seen[rank as usize - 1]);
                assert!(
                    (got - expected).abs() < 6.0 * expected.sqrt() + 1.0,
                    "{exponent} {rank}: {got} for {expected}"
                );
            }
        }
    }

    #[test]
    fn numbers_stay_in_range_and_depend_on_the_seed() {
        let mut random = Random::new(1);
        assert_ne!(random.clone().next(), Random::new(2).next());
        for limit in [0, 1, 2, 1_000, u64::MAX] {
            assert!((0..1_000).all(|_| random.below(limit) <= limit.saturating_sub(1)));
        }
        let mean = (0..100_000).map(|_| random.exponential(3.0)).sum::<f64>() / 100_000.0;
        assert!((mean - 3.0).abs() < 0.1, "{mean}");
        assert_eq!(Zipf::new(1, 1.0).sample(&mut random), 0);
    }
}
