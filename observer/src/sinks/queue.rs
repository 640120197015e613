//! A bounded queue from the pipeline thread to one worker. Items have weights: a batch weighs as much as its commands.
//!
//! It is made for a producer that must not lose time: a push takes a lock that is held for nanoseconds, and wakes the
//! worker only when the worker asked for it: at the first item after a pause, and when a batch is full.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::options::Overflow;

/// Bounded, many producers, one consumer.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    space: Condvar,
    capacity: usize,
    /// Weight that makes a batch: the worker gathers no longer then.
    batch: usize,
    overflow: Overflow,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Of all items together.
    weight: usize,
    /// Weight at which the worker wants to be woken; `usize::MAX` while it is busy.
    wake_at: usize,
    closed: bool,
}

/// What [`Queue::drain`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// At least one item.
    Items,
    /// Nothing within the time given.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize, batch: usize, overflow: Overflow) -> Self {
        let capacity = capacity.max(1);
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                weight: 0,
                wake_at: usize::MAX,
                closed: false,
            }),
            ready: Condvar::new(),
            space: Condvar::new(),
            capacity,
            batch: batch.clamp(1, capacity),
            overflow,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false` when the item was dropped: the queue is full and does not wait, or is closed. An item heavier than the
    /// whole queue fits when it is empty.
    #[must_use]
    pub(super) fn push(&self, item: T, weight: usize) -> bool {
        let mut state = self.state();
        while state.weight > 0 && state.weight + weight > self.capacity && !state.closed {
            if self.overflow == Overflow::Drop {
                return false;
            }
            state = self
                .space
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.items.push_back(item);
        state.weight += weight;
        let wake = state.weight >= state.wake_at;
        if wake {
            state.wake_at = usize::MAX;
        }
        drop(state);
        if wake {
            self.ready.notify_one();
        }
        true
    }

    /// Waits at most `idle` for a first item, then at most `gather` for a batch, and moves all there is to `into`.
    pub(super) fn drain(&self, into: &mut Vec<T>, idle: Duration, gather: Duration) -> Drained {
        let state = self.wait(self.state(), 1, idle);
        if state.items.is_empty() {
            return if state.closed {
                Drained::Closed
            } else {
                Drained::Idle
            };
        }
        let mut state = self.wait(state, self.batch, gather);
        into.extend(state.items.drain(..));
        state.weight = 0;
        drop(state);
        self.space.notify_all();
        Drained::Items
    }

    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<T>>,
        weight: usize,
        most: Duration,
    ) -> MutexGuard<'a, State<T>> {
        let end = Instant::now() + most;
        while state.weight < weight && !state.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.wake_at = weight;
            let waited = self.ready.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wake_at = usize::MAX;
        state
    }

    /// No more items; the worker gets what is queued and then [`Drained::Closed`].
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_all();
        self.space.notify_all();
    }

    /// Empties the queue.
    pub(super) fn discard(&self) -> VecDeque<T> {
        let mut state = self.state();
        let discarded = std::mem::take(&mut state.items);
        state.weight = 0;
        drop(state);
        self.space.notify_all();
        discarded
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn drops_what_does_not_fit() {
        let queue = Queue::new(2, 2, Overflow::Drop);
        assert_eq!(
            [queue.push(1, 1), queue.push(2, 1), queue.push(3, 1)],
            [true, true, false]
        );
        let mut items = Vec::new();
        assert_eq!(queue.drain(&mut items, LONG, LONG), Drained::Items);
        assert_eq!(items, [1, 2]);
        assert_eq!(queue.drain(&mut items, Duration::ZERO, LONG), Drained::Idle);
        assert!(queue.push(4, 1));
        queue.close();
        assert!(!queue.push(5, 1));
        assert_eq!(queue.drain(&mut items, LONG, LONG), Drained::Items);
        assert_eq!(queue.drain(&mut items, LONG, LONG), Drained::Closed);
        assert_eq!(items, [1, 2, 4]);
    }

    #[test]
    fn loses_nothing_when_it_waits() {
        let queue = Arc::new(Queue::new(3, 2, Overflow::Wait));
        let producer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let pushed = (0..1000).filter(|number| queue.push(*number, 1)).count();
                queue.close();
                pushed
            })
        };
        let mut items = Vec::new();
        while queue.drain(&mut items, LONG, Duration::ZERO) != Drained::Closed {}
        assert_eq!(producer.join().unwrap(), 1000);
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn wakes_for_the_first_item_and_for_a_full_batch() {
        let queue = Arc::new(Queue::new(100, 10, Overflow::Drop));
        let consumer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let mut items = Vec::new();
                let drained = queue.drain(&mut items, LONG, LONG);
                (drained, items.len())
            })
        };
        let start = Instant::now();
        for number in 0..10 {
            assert!(queue.push(number, 1));
        }
        assert_eq!(consumer.join().unwrap(), (Drained::Items, 10));
        assert!(start.elapsed() < LONG / 2);
    }
}
