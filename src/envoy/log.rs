//! The log, which goes into Envoy's own.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::abi;

struct EnvoyLog;

/// Sends what is logged to Envoy, which has a level of its own for all modules.
pub(super) fn start() {
    // It fails only where there is a logger already.
    if log::set_logger(&EnvoyLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
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
            Level::Error => 4,
        };
        abi::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
