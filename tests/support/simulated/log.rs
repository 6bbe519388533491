//! What the core logs in a test. Each test has a thread of its own, and so a log of its own.

use std::{cell::RefCell, sync::Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Collector;

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = (record.level(), record.args().to_string());
        LINES.with_borrow_mut(|lines| lines.push(line));
    }

    fn flush(&self) {}
}

/// Takes out what this test has logged since the last call. The first call begins to collect.
pub fn take_log() -> Vec<(Level, String)> {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Collector).expect("no other logger");
        log::set_max_level(LevelFilter::Info);
    });
    LINES.take()
}
