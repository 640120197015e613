//! Bounds of the histograms.

use serde::{Deserialize, Serialize};

/// Most bounds of a histogram. Each series keeps a number for each of them.
const MAX_BOUNDS: usize = 64;

/// `[histograms]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Histograms {
    /// Upper bounds of all times that operations and connections take, seconds. `cache.latency` has them in milliseconds.
    pub latency: Vec<f64>,
    /// Upper bounds of sizes of values, bytes.
    pub value_size: Vec<f64>,
    /// Upper bounds of times to live, seconds.
    pub ttl: Vec<f64>,
    /// Exponential histograms in place of those with bounds.
    pub exponential: bool,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            latency: vec![
                0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ],
            // Powers of four from 16 B to 64 MiB.
            value_size: (2..=13).map(|power| f64::from(4_u32.pow(power))).collect(),
            // From a second to a year.
            ttl: vec![
                1.0,
                5.0,
                10.0,
                30.0,
                60.0,
                300.0,
                900.0,
                1800.0,
                3600.0,
                21600.0,
                86400.0,
                604_800.0,
                2_592_000.0,
                31_536_000.0,
            ],
            exponential: false,
        }
    }
}

impl Histograms {
    /// # Errors
    ///
    /// The key whose bounds are none, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (name, bounds) in [
            ("latency", &self.latency),
            ("value-size", &self.value_size),
            ("ttl", &self.ttl),
        ] {
            let error = |reason: &str| Err((name, reason.to_owned()));
            if bounds.is_empty() || bounds.len() > MAX_BOUNDS {
                return error(&format!("not 1 to {MAX_BOUNDS} bounds"));
            }
            if !bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0) {
                return error("bounds must be above 0");
            }
            if !bounds.is_sorted_by(|one, next| one < next) {
                return error("each bound must be above the one before");
            }
        }
        Ok(())
    }
}
