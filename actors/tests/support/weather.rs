//! The network between an engine and its homes, in a simulation: calls take time, fail, or lose their answer. Calm unless
//! it is told otherwise.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{lock, random::Random};

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It arrives, and so does its answer.
    Fine,
    /// It does not arrive.
    Lost,
    /// It arrives; the answer does not.
    AnswerLost,
    /// It is given up by the caller, and arrives later.
    Late(Duration),
}

/// See the module.
pub struct Weather {
    random: Mutex<Random>,
    delay_micros_max: AtomicU64,
    trouble_one_in: AtomicU64,
    slow_states_one_in: AtomicU64,
    slow_micros_max: AtomicU64,
    troubles: AtomicU64,
}

impl Default for Weather {
    fn default() -> Self {
        let (delay_micros_max, trouble_one_in, slow_states_one_in) = Default::default();
        let (slow_micros_max, troubles) = Default::default();
        let random = Mutex::new(Random::new(0));
        Self { random, delay_micros_max, trouble_one_in, slow_states_one_in, slow_micros_max, troubles }
    }
}

impl Weather {
    /// From now on calls take up to `delay_max`, and one in `trouble_one_in` goes wrong; none when that is 0.
    pub fn change(&self, seed: u64, delay_max: Duration, trouble_one_in: u64) {
        *lock(&self.random) = Random::new(seed);
        self.delay_micros_max.store(delay_max.as_micros() as u64, Ordering::Relaxed);
        self.trouble_one_in.store(trouble_one_in, Ordering::Relaxed);
    }

    /// From now on one in `one_in` reads of states takes up to `slow_max` longer; none when that is 0.
    pub fn slow_states(&self, one_in: u64, slow_max: Duration) {
        self.slow_states_one_in.store(one_in, Ordering::Relaxed);
        self.slow_micros_max.store(slow_max.as_micros() as u64, Ordering::Relaxed);
    }

    /// A read of states on its way, beside what [`Weather::call`] does to it.
    pub async fn read_states(&self) {
        let one_in = self.slow_states_one_in.load(Ordering::Relaxed);
        if one_in > 0 {
            let most = self.slow_micros_max.load(Ordering::Relaxed);
            let delay = {
                let mut random = lock(&self.random);
                if random.one_in(one_in) { random.range(0, most + 1) } else { 0 }
            };
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
    }

    /// Calls that went wrong so far.
    pub fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed)
    }

    /// A call on its way.
    pub async fn call(&self) -> Fate {
        let most = self.delay_micros_max.load(Ordering::Relaxed);
        if most == 0 {
            return Fate::Fine;
        }
        let (delay, fate) = {
            let mut random = lock(&self.random);
            // Mostly quick, sometimes slow: both orders of any two calls must occur.
            let most = if random.one_in(10) { most } else { most / 10 + 1 };
            (random.range(0, most + 1), self.fate(&mut random))
        };
        tokio::time::sleep(Duration::from_micros(delay)).await;
        fate
    }

    fn fate(&self, random: &mut Random) -> Fate {
        let one_in = self.trouble_one_in.load(Ordering::Relaxed);
        if one_in == 0 || !random.one_in(one_in) {
            return Fate::Fine;
        }
        self.troubles.fetch_add(1, Ordering::Relaxed);
        match random.range(0, 3) {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            _ => Fate::Late(Duration::from_millis(random.range(1, 400))),
        }
    }
}
