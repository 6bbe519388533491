//! The log, which goes into Envoy's own.

use alloc::string::ToString;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::abi;

struct EnvoyLog;

/// Envoy's number of the level.
const ERROR: u32 = 4;

/// Sends what is logged to Envoy, which has a level of its own for all modules.
pub(super) fn start() {
    // It fails only where there is a logger already.
    if log::set_logger(&EnvoyLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Logs an error as it stands, without memory of the heap.
pub(super) fn error(line: &str) {
    abi::log(ERROR, line);
}

impl Log for EnvoyLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Trace => 0,
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => ERROR,
        };
        abi::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
