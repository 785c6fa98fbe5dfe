//! What goes from a working thread to whoever reads: a queue that can be waited for by a
//! thread or by a task.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A queue with one writer and one reader. The writer never waits.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    rung: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    waker: Option<Waker>,
}

impl<T> Queue<T> {
    pub fn new() -> Queue<T> {
        Queue {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
                waker: None,
            }),
            rung: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, item: T) {
        self.change(|state| state.items.push_back(item));
    }

    /// Nothing comes after what is in the queue.
    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.state();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.rung.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next item, if there is one now.
    pub fn try_next(&self) -> Option<T> {
        self.state().items.pop_front()
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.closed && state.items.is_empty()
    }

    /// The next item; waits for it. `None` at the end.
    pub fn next(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            match state.items.pop_front() {
                None if !state.closed => {
                    let woken = self.rung.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
                item => return item,
            }
        }
    }

    /// The next item for a task.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<T>> {
        let mut state = self.state();
        match state.items.pop_front() {
            None if !state.closed => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            item => Poll::Ready(item),
        }
    }
}
