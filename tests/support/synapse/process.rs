//! Python programs that end with the test process, however that ends: each watches a pipe that only
//! the test process holds open.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::VERSION;

/// Longer than a start takes on a slow machine under load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running program. It is told to end when dropped, and waited for.
pub struct Process {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Runs `program`, which ends when its standard input does, and returns once `ready` finds in a
    /// line of its log what it looks for.
    ///
    /// # Panics
    ///
    /// If the program ends before that, or takes too long.
    pub async fn start<T: Send + 'static>(
        program: &str,
        arguments: &[&OsStr],
        ready: impl FnMut(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        let python = python();
        let mut child = Command::new(&python)
            .args(["-c", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let log = child.stderr.take().expect("a pipe");
        let process = Self {
            lifeline: child.stdin.take(),
            child,
        };
        let (found, outcome) = oneshot::channel();
        thread::spawn(move || read_log(BufReader::new(log), ready, found));
        let started = timeout(START_LIMIT, outcome)
            .await
            .expect("the program starts in time")
            .expect("an outcome");
        let found = started.unwrap_or_else(|log| {
            panic!(
                "{arguments:?} does not start with {}:\n{log}",
                python.display()
            )
        });
        (process, found)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // It fails only if there is nothing to wait for.
        let _ = self.child.wait();
    }
}

/// The interpreter that has Synapse installed.
///
/// # Panics
///
/// If there is none.
pub fn python() -> PathBuf {
    match env::var_os("SYNAPSE_PYTHON") {
        Some(python) => python.into(),
        None => {
            let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
            assert!(
                python.exists(),
                "no Synapse: {} does not exist. Run `make setup`, or set SYNAPSE_PYTHON to a \
                 Python that has matrix-synapse=={VERSION}.",
                python.display(),
            );
            python
        }
    }
}

/// Sends what `ready` finds first, or the log if it ends before. Reads on to the end: a full pipe
/// stops the program.
fn read_log<T>(
    log: impl BufRead,
    mut ready: impl FnMut(&str) -> Option<T>,
    found: oneshot::Sender<Result<T, String>>,
) {
    let mut found = Some(found);
    let mut before = String::new();
    for line in log.lines().map_while(Result::ok) {
        if found.is_none() {
            continue;
        }
        if let Some(value) = ready(&line) {
            // Whoever waited may have given up.
            let _ = found.take().map(|found| found.send(Ok(value)));
        }
        before.push_str(&line);
        before.push('\n');
    }
    let _ = found.map(|found| found.send(Err(before)));
}
