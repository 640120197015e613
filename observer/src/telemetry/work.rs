//! Steps of loops, counted in unit tests only: whatever comes, work must grow as the input does.

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    /// Counts steps.
    pub(crate) fn add(steps: usize) {
        STEPS.set(STEPS.get() + steps as u64);
    }

    /// How many steps something takes.
    pub(crate) fn of(action: impl FnOnce()) -> u64 {
        let before = STEPS.get();
        action();
        STEPS.get() - before
    }
}

#[cfg(test)]
pub(crate) use counted::{add, of};

/// Counts steps.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn add(_: usize) {}
