//! Shared queues: how workers of a simulated Envoy send each other messages.
//!
//! As in Envoy, a message and the callback that announces it are two things: a callback may be lost while the
//! message stays.

use std::collections::VecDeque;

use matrix_edge_auth::host::{QueueId, RootId};

#[derive(Default)]
pub struct Queues(Vec<Queue>);

struct Queue {
    name: String,
    /// The worker that registered it last, and so gets the callbacks.
    worker: usize,
    root: RootId,
    messages: VecDeque<Vec<u8>>,
    /// Messages whose callback has not run yet.
    undelivered: usize,
}

impl Queue {
    fn push(&mut self, message: &[u8]) {
        self.messages.push_back(message.to_vec());
        self.undelivered += 1;
    }
}

impl Queues {
    /// Registers the queue for a worker's root, which takes it over if it exists.
    pub fn register(&mut self, name: &str, worker: usize, root: RootId) -> QueueId {
        let known = self.0.iter().position(|queue| queue.name == name);
        let id = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(Queue {
                name: name.to_owned(),
                worker,
                root,
                messages: VecDeque::new(),
                undelivered: 0,
            });
        }
        self.0[id].worker = worker;
        self.0[id].root = root;
        number(id)
    }

    /// Returns whether there is such a queue.
    pub fn send(&mut self, queue: QueueId, message: &[u8]) -> bool {
        let queue = self.0.get_mut(place(queue));
        queue.map(|queue| queue.push(message)).is_some()
    }

    pub fn broadcast(&mut self, message: &[u8]) {
        for queue in &mut self.0 {
            queue.push(message);
        }
    }

    pub fn receive(&mut self, queue: QueueId) -> Option<Vec<u8>> {
        self.0.get_mut(place(queue))?.messages.pop_front()
    }

    /// Takes one callback that is due in a worker.
    pub fn take_callback(&mut self, worker: usize) -> Option<(QueueId, RootId)> {
        let (id, queue) = self
            .0
            .iter_mut()
            .enumerate()
            .find(|(_, queue)| queue.worker == worker && queue.undelivered > 0)?;
        queue.undelivered -= 1;
        Some((number(id), queue.root))
    }

    /// Loses the callbacks that are due in a worker; the messages stay.
    pub fn drop_callbacks(&mut self, worker: usize) {
        for queue in self.0.iter_mut().filter(|queue| queue.worker == worker) {
            queue.undelivered = 0;
        }
    }

    /// Returns how many queues reach a worker.
    pub fn count_of(&self, worker: usize) -> usize {
        self.of(worker).count()
    }

    /// Returns how many messages wait for a worker.
    pub fn messages_of(&self, worker: usize) -> usize {
        self.of(worker).map(|queue| queue.messages.len()).sum()
    }

    pub fn messages(&self) -> usize {
        self.0.iter().map(|queue| queue.messages.len()).sum()
    }

    fn of(&self, worker: usize) -> impl Iterator<Item = &Queue> {
        self.0.iter().filter(move |queue| queue.worker == worker)
    }
}

/// Returns Envoy's number of the queue at this place. None has the number 0.
fn number(place: usize) -> QueueId {
    QueueId(place as u32 + 1)
}

fn place(QueueId(number): QueueId) -> usize {
    (number as usize).wrapping_sub(1)
}
