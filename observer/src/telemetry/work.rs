//! Steps of loops, counted in unit tests only: whatever comes, work must grow as the input does.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Counts steps.
#[cfg(test)]
pub(crate) fn add(steps: usize) {
    STEPS.set(STEPS.get() + steps as u64);
}

/// Counts steps.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn add(_: usize) {}

/// How many steps something takes.
#[cfg(test)]
pub(crate) fn of(action: impl FnOnce()) -> u64 {
    let before = STEPS.get();
    action();
    STEPS.get() - before
}
