//! A running 99th percentile in eight bytes.

/// Largest step up, of the estimate.
const STEP: f64 = 0.05;
/// Values before which nothing is said: the highest of fewer says little of the 99th percentile.
const FIRST: u32 = 500;

/// Follows the 99th percentile of a series of positive values.
///
/// A value above the estimate raises it by 4.95 %, any other lowers it by 0.05 %: the two balance when 1 of 100 values
/// is above. So the share of values that are called high is 1 % in the long run whatever their distribution, and however it
/// changes: a tenfold rise is followed within 50 values, a tenfold fall within 5,000. The estimate itself wavers by about 10 %.
#[derive(Debug, Default)]
pub(super) struct Percentile {
    estimate: f32,
    seen: u32,
}

impl Percentile {
    /// Takes a value in. Answers whether it is above.
    #[inline]
    pub(super) fn exceeded(&mut self, value: f64) -> bool {
        let value = value.max(1.0) as f32;
        if self.seen == 0 {
            self.estimate = value;
        }
        let above = value > self.estimate;
        self.estimate *= if above { UP } else { DOWN };
        self.seen = self.seen.saturating_add(1);
        above && self.seen > FIRST
    }
}

const UP: f32 = (1.0 + 0.99 * STEP) as f32;
const DOWN: f32 = (1.0 - 0.01 * STEP) as f32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, from 0 to 1.
    fn uniform(state: &mut u64) -> f64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    #[test]
    fn one_of_a_hundred_is_above() {
        let exponential = |u: f64| -u.ln() * 2e5;
        let heavy = |u: f64| 1e5 / u.powf(0.7);
        let two_kinds = |u: f64| if u < 0.02 { 5e6 } else { 1e5 + u };
        let distributions: [(&str, &dyn Fn(f64) -> f64); 3] = [
            ("exponential", &exponential),
            ("heavy tail", &heavy),
            ("two kinds", &two_kinds),
        ];
        for (name, distribution) in distributions {
            let mut state = 42;
            let mut percentile = Percentile::default();
            let mut next = || distribution(uniform(&mut state));
            (0..20_000).for_each(|_| _ = percentile.exceeded(next()));
            let above = (0..200_000).filter(|_| percentile.exceeded(next())).count();
            assert!((1_800..2_200).contains(&above), "{name}: {above}");
        }
    }

    #[test]
    fn it_follows_a_change() {
        let mut state = 7;
        let mut percentile = Percentile::default();
        let mut next = |scale: f64| -uniform(&mut state).ln() * scale;
        (0..50_000).for_each(|_| _ = percentile.exceeded(next(1e5)));
        let raised = (0..10_000)
            .filter(|_| percentile.exceeded(next(1e6)))
            .count();
        assert!((100..300).contains(&raised), "{raised}");
        (0..20_000).for_each(|_| _ = percentile.exceeded(next(1e5)));
        let fallen = (0..10_000)
            .filter(|_| percentile.exceeded(next(1e5)))
            .count();
        assert!((50..150).contains(&fallen), "{fallen}");
    }

    #[test]
    fn the_first_values_are_not_judged() {
        let mut percentile = Percentile::default();
        assert!((0..FIRST).all(|value| !percentile.exceeded(f64::from(value) * 1e6)));
        assert!(percentile.exceeded(1e12));
    }
}
