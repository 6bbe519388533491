//! What all workers of a simulated Envoy share: the clock, shared data, queues and metrics.
//!
//! As in Envoy, an absent key takes any CAS number.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{
    clock::Instant,
    config::{Config, Mode, Role},
    host::{If, Metrics, NotWritten, Versioned},
    metrics::Metric,
    role::series,
};

use super::{
    interference::{Interference, Planted},
    queues::Queues,
};

#[derive(Default)]
pub struct Process {
    now: Cell<u64>,
    /// Values with their CAS numbers.
    pub(super) shared_data: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    pub(super) cas: Cell<u32>,
    /// Counters, gauges and sums of histograms, by full name.
    metrics: RefCell<BTreeMap<String, u64>>,
    /// Kinds of configurations whose series are defined.
    configured: RefCell<Vec<(Role, Mode)>>,
    pub(super) queues: RefCell<Queues>,
    workers: Cell<usize>,
    random_numbers: Cell<u64>,
    pub(super) interference: RefCell<Option<Interference>>,
    pub(super) planted: RefCell<Option<Planted>>,
}

impl Process {
    pub fn new() -> Rc<Self> {
        let process = Self::default();
        process.now.set(1_000_000);
        Rc::new(process)
    }

    pub fn now(&self) -> Instant {
        Instant::from_millis(self.now.get())
    }

    pub fn advance(&self, time: Duration) {
        self.now.set(self.now.get() + time.as_millis() as u64);
    }

    /// Returns the sum of all counters whose name starts with `prefix`. Panics if the module has none: a test that expects 0 of a
    /// misspelt one would always pass.
    pub fn metric(&self, prefix: &str) -> u64 {
        let is_known = |metric: Metric| metric.name().starts_with(prefix);
        assert!(
            Metric::all().into_iter().any(is_known),
            "no metric of the module begins with {prefix}"
        );
        let metrics = self.metrics.borrow();
        metrics
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, value)| value)
            .sum()
    }

    /// Returns how many messages wait in shared queues.
    pub fn messages(&self) -> usize {
        self.queues.borrow().messages()
    }

    /// Returns how many keys shared data has.
    pub fn keys(&self) -> usize {
        self.shared_data.borrow().len()
    }

    /// Returns how many bytes the values of shared data have together.
    pub fn shared_bytes(&self) -> usize {
        let data = self.shared_data.borrow();
        data.values().map(|(value, _)| value.len()).sum()
    }

    /// Sends `message` to every worker, as another version of the module might.
    pub fn broadcast(&self, message: &[u8]) {
        self.queues.borrow_mut().broadcast(message);
    }

    /// Returns the number of a new worker.
    pub(super) fn add_worker(&self) -> usize {
        self.workers.set(self.workers.get() + 1);
        self.workers.get()
    }

    pub(super) fn read(&self, key: &str) -> Option<Versioned> {
        self.on_shared_data_call();
        let (value, cas) = self.stored(key)?;
        Some(Versioned { value, cas })
    }

    pub(super) fn write(&self, key: &str, value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.on_shared_data_call();
        match (self.stored(key), condition) {
            (Some(_), If::Absent) => return Err(NotWritten::Changed),
            (Some((_, now)), If::Unchanged(then)) if now != then => {
                return Err(NotWritten::Changed);
            }
            _ => {}
        }
        self.cas.set(self.cas.get() + 1);
        let mut data = self.shared_data.borrow_mut();
        data.insert(key.to_owned(), (value.to_vec(), self.cas.get()));
        Ok(())
    }

    fn stored(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let written = self.shared_data.borrow().get(key).cloned();
        written.or_else(|| Some((self.planted(key)?, 0)))
    }

    pub(super) fn random(&self) -> u64 {
        let number = self.random_numbers.get() + 1;
        self.random_numbers.set(number);
        fastrand::Rng::with_seed(number).u64(..)
    }

    /// A configuration is read: its series are there from then on.
    pub(super) fn configure(&self, host: &impl Metrics, config: &Config) {
        let kind = (config.role, config.mode);
        if !self.configured.borrow().contains(&kind) {
            self.configured.borrow_mut().push(kind);
            series::define(host, config);
        }
    }

    pub(super) fn define(&self, metric: Metric) {
        self.metrics.borrow_mut().entry(metric.name()).or_default();
    }

    /// Panics if the series was not there before its first event: a rate does not see that event.
    pub(super) fn record(&self, metric: Metric, value: u64) {
        let mut metrics = self.metrics.borrow_mut();
        let name = metric.name();
        match metrics.get_mut(&name) {
            Some(sum) => *sum += value,
            None => panic!("{name} is counted and was not defined"),
        }
    }
}
