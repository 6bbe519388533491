//! Envoy under QEMU's user mode, with the plugin `count.c` that counts what each thread executes.
//!
//! The non-obvious rule: the processor that QEMU imitates is named. Its default offers all that this QEMU can do, and
//! programs take other ways through their code on another processor.

use std::{env, ffi::OsString, fs, path::PathBuf, thread, time::Duration};

use tempfile::TempDir;

/// Without what QEMU would warn that it cannot do.
const PROCESSOR: &str = "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid";

/// For how long nothing may be compiled, and how few instructions that is. An idle Envoy executes a tenth of it.
const QUIET: Duration = Duration::from_millis(100);
const FEW: u64 = 1_000_000;

/// Three of them in a row, since a busy machine may have no time for a thread that compiles.
const QUIETS: usize = 3;

/// What one Envoy executes.
pub struct Counter {
    dir: TempDir,
}

impl Counter {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir }
    }

    /// The command line that runs another one, and counts.
    pub fn command(&self) -> Vec<OsString> {
        let mut counts = OsString::from("INSTRUCTIONS=");
        counts.push(self.file());
        let mut words: Vec<OsString> = vec!["env".into(), counts];
        words.push(format!("qemu-{}", env::consts::ARCH).into());
        if env::consts::ARCH == "x86_64" {
            words.extend(["-cpu", PROCESSOR].map(Into::into));
        }
        words.extend(["-plugin".into(), built("count.so").into()]);
        words
    }

    /// Instructions so far, by thread.
    pub fn read(&self) -> Vec<u64> {
        let bytes = fs::read(self.file()).expect("QEMU counts into a file");
        let (counts, _) = bytes.as_chunks();
        counts
            .iter()
            .map(|count| u64::from_le_bytes(*count))
            .collect()
    }

    /// Waits until V8 has compiled for speed, on threads of its own, what has become hot.
    pub fn wait_until_quiet(&self) {
        let mut quiets = 0;
        let mut before: u64 = self.read().iter().sum();
        while quiets < QUIETS {
            thread::sleep(QUIET);
            let now = self.read().iter().sum();
            quiets = if now - before < FEW { quiets + 1 } else { 0 };
            before = now;
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("instructions")
    }
}

/// A file that `scripts/bench` has built for this part.
pub fn built(name: &str) -> PathBuf {
    let folder = env::var_os("INSTRUCTIONS_BUILT").expect("scripts/bench builds the counter");
    PathBuf::from(folder).join(name)
}
