//! Which commands left together.
//!
//! A pipeline begins when one send holds the start of two or more requests, and goes on through that thread's next sends
//! until a reply byte arrives. MULTI begins a group of its own, which ends with EXEC or DISCARD.
//!
//! Groups are numbered. A request is given its group's number when it is sent, when the group is still open: whether it
//! is a batch, and how large, is known when it closes. Replies come in order, and so groups end in order.

use std::collections::VecDeque;

use super::{Batch, BatchKind, Exchange, Transaction};
use crate::source::event::Nanos;

/// Most commands of one batch; what comes beyond begins another. Deeper pipelines are bulk loading.
const MAX_BATCH: u32 = 10_000;

/// The call that a request's first byte was sent with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub started: Nanos,
    /// The thread; 0 where the source does not know.
    pub tid: u32,
    /// It began in the middle of a request: it comes from whoever sent that request's beginning, on whatever thread.
    pub continues: bool,
}

/// A request's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupId(u64);

#[derive(Debug)]
struct Group {
    kind: Option<BatchKind>,
    /// The last call that added to it.
    call: Call,
    /// Whether requests may still be added.
    open: bool,
    /// Requests in it, and how many of them have ended.
    size: u32,
    ended: u32,
    transactions: Vec<Transaction>,
}

/// The groups of a connection whose requests have not all ended.
#[derive(Debug)]
pub struct Groups {
    /// Whether batches are put together; else there are no groups, and each transaction is handed on as it ends.
    gather: bool,
    /// Number of the first group in the queue.
    first: u64,
    queue: VecDeque<Group>,
    /// Transactions in them that have ended.
    held: usize,
}

impl Groups {
    /// No groups. `gather`: hold transactions back until their batch is complete.
    #[must_use]
    pub fn new(gather: bool) -> Self {
        Self {
            gather,
            first: 0,
            queue: VecDeque::new(),
            held: 0,
        }
    }

    /// Bytes held on the heap, without the details of requests.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.queue.capacity() * size_of::<Group>() + self.held * size_of::<Transaction>()
    }

    /// Gives back what is empty.
    pub fn shrink(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// A request is sent. `multi`: it begins a transaction of the server's.
    pub fn request(&mut self, call: Call, multi: bool) -> GroupId {
        if !self.gather {
            return GroupId(0);
        }
        if let Some(last) = self.queue.back_mut()
            && last.open
            && last.size < MAX_BATCH
        {
            let joins = match last.kind {
                Some(BatchKind::Transaction) => true,
                Some(BatchKind::Pipeline) => {
                    !multi && (call.continues || call.tid == last.call.tid)
                }
                None => !multi && call == last.call,
            };
            if joins {
                last.kind.get_or_insert(BatchKind::Pipeline);
                last.call = call;
                last.size += 1;
                return self.last();
            }
        }
        self.close();
        self.queue.push_back(Group {
            kind: multi.then_some(BatchKind::Transaction),
            call,
            open: true,
            size: 1,
            ended: 0,
            transactions: Vec::new(),
        });
        self.last()
    }

    fn last(&self) -> GroupId {
        GroupId(self.first + self.queue.len() as u64 - 1)
    }

    /// A reply byte has arrived: a pipeline is over.
    pub fn reply_begins(&mut self, out: &mut dyn FnMut(Exchange)) {
        if let Some(last) = self.queue.back_mut()
            && last.open
            && last.kind != Some(BatchKind::Transaction)
        {
            last.open = false;
            self.deliver(out);
        }
    }

    /// EXEC or DISCARD was sent, or nothing more will be for a while.
    pub fn close(&mut self) {
        if let Some(last) = self.queue.back_mut() {
            last.open = false;
        }
    }

    /// MULTI was refused: what follows is not queued.
    pub fn refuse(&mut self, id: GroupId) {
        let index = id.0.checked_sub(self.first).map(|index| index as usize);
        if let Some(group) = index.and_then(|index| self.queue.get_mut(index)) {
            group.open = false;
        }
    }

    /// Whether a group waits to be closed although all of it has ended: requests without a reply.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.queue
            .back()
            .is_some_and(|last| last.open && last.kind != Some(BatchKind::Transaction))
            && self.queue.iter().all(|group| group.ended == group.size)
    }

    /// A request of a group has ended.
    pub fn ended(&mut self, id: GroupId, transaction: Transaction, out: &mut dyn FnMut(Exchange)) {
        let index = id.0.checked_sub(self.first).map(|index| index as usize);
        match index.and_then(|index| self.queue.get_mut(index)) {
            // Nearly every command: alone, and its group is closed by the first byte of its reply.
            Some(group) if group.kind.is_some() || group.open => {
                group.ended += 1;
                group.transactions.push(transaction);
                self.held += 1;
            }
            Some(group) => {
                group.ended += 1;
                out(Exchange::One(transaction));
            }
            None => out(Exchange::One(transaction)),
        }
        self.deliver(out);
    }

    /// Hands on the groups that are complete.
    pub fn deliver(&mut self, out: &mut dyn FnMut(Exchange)) {
        while let Some(group) = self.queue.front()
            && !group.open
            && group.ended == group.size
        {
            self.pop(out);
        }
    }

    /// Hands on all there is, complete or not, and forgets the groups.
    pub fn flush(&mut self, out: &mut dyn FnMut(Exchange)) {
        while !self.queue.is_empty() {
            self.pop(out);
        }
    }

    fn pop(&mut self, out: &mut dyn FnMut(Exchange)) {
        let Some(group) = self.queue.pop_front() else {
            return;
        };
        self.first += 1;
        self.held -= group.transactions.len();
        match group.kind {
            Some(kind) if group.transactions.len() > 1 => out(Exchange::Batch(Batch {
                kind,
                transactions: group.transactions,
            })),
            _ => group
                .transactions
                .into_iter()
                .map(Exchange::One)
                .for_each(out),
        }
    }
}
