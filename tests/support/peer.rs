//! A child process that is called by JSON messages over pipes: Chromium's DevTools, and the drivers of the client
//! libraries, which use the same form.
//!
//! A call is `{"id","method","params"}`, its answer `{"id","result"}` or `{"id","error"}`, an event `{"method","params"}`.
//! The process ends when its standard input does, so also with the test process, however that ends.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::http::within_limit;

/// A running process. It is told to end when dropped, and waited for.
pub struct Peer {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    end_of_message: u8,
    calls: AtomicU64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The calls without an answer yet. `None`: the process has ended.
    waiting: Mutex<Option<Waiting>>,
    events: Mutex<Vec<Value>>,
    /// How many events there were.
    total: watch::Sender<usize>,
    log: Mutex<String>,
}

type Waiting = HashMap<u64, oneshot::Sender<Value>>;

impl Peer {
    /// Starts `command`, called `name` in failures. Messages end with `end_of_message`.
    ///
    /// # Panics
    ///
    /// If there is no such program; `missing` says what to do then.
    pub fn start(name: &str, command: &mut Command, end_of_message: u8, missing: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run {} for {name}: {error}. {missing}",
                    command.get_program().display()
                )
            });
        let shared = Arc::new(Shared::default());
        *lock(&shared.waiting) = Some(HashMap::new());
        let (input, output, log) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        read_messages(output.expect("a pipe"), end_of_message, Arc::clone(&shared));
        read_log(log.expect("a pipe"), Arc::clone(&shared));
        Self {
            name: name.to_owned(),
            child,
            input,
            end_of_message,
            calls: AtomicU64::new(0),
            shared,
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    ///
    /// What the process says that went wrong.
    ///
    /// # Panics
    ///
    /// If the process ends before it answers.
    pub async fn try_call(&self, mut message: Value) -> Result<Value, Value> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        message["id"] = id.into();
        let (answered, answer) = oneshot::channel();
        if let Some(waiting) = &mut *lock(&self.shared.waiting) {
            waiting.insert(id, answered);
        }
        self.write(&message);
        let what = format!("{} to answer {}", self.name, message["method"]);
        let mut answer = within_limit(&what, answer)
            .await
            .unwrap_or_else(|_| panic!("{} ended", self.name));
        match answer["error"].take() {
            Value::Null => Ok(answer["result"].take()),
            error => Err(error),
        }
    }

    /// Resolves when there was an event as `wanted` since there were `from` events, with its parameters.
    pub async fn event_since(
        &self,
        from: usize,
        method: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut total = self.shared.total.subscribe();
        let mut seen = from;
        within_limit(&format!("{method} of {}", self.name), async {
            loop {
                let new = self.events_since(seen);
                seen += new.len();
                let found = new
                    .into_iter()
                    .find(|event| event["method"] == method && wanted(&event["params"]));
                if let Some(mut event) = found {
                    return event["params"].take();
                }
                // The sender lives in `self`, so waiting cannot fail.
                let _ = total.wait_for(|total| *total > seen).await;
            }
        })
        .await
    }

    /// How many events there were.
    pub fn events(&self) -> usize {
        lock(&self.shared.events).len()
    }

    /// The events since there were `from` of them.
    pub fn events_since(&self, from: usize) -> Vec<Value> {
        lock(&self.shared.events)
            .get(from..)
            .unwrap_or_default()
            .to_vec()
    }

    fn write(&self, message: &Value) {
        use std::io::Write;

        let mut bytes = message.to_string().into_bytes();
        bytes.push(self.end_of_message);
        let mut input = self.input.as_ref().expect("open until dropped");
        // It fails only if the process has ended, and then no answer comes.
        let _ = input.write_all(&bytes);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        // It fails only if there is nothing to wait for.
        let _ = self.child.wait();
        if thread::panicking() {
            let log = lock(&self.shared.log);
            eprintln!("--- the log of {}\n{log}---", self.name);
            for event in self.events_since(0) {
                eprintln!("{event}");
            }
        }
    }
}

fn read_messages(output: ChildStdout, end_of_message: u8, shared: Arc<Shared>) {
    thread::spawn(move || {
        for message in BufReader::new(output).split(end_of_message) {
            let Ok(message) = message else { break };
            let message: Value = match serde_json::from_slice(&message) {
                Ok(message) => message,
                Err(error) => json!({
                    "method": "unreadable",
                    "params": {"error": error.to_string(), "text": String::from_utf8_lossy(&message)},
                }),
            };
            shared.take(message);
        }
        // Those who wait are told by the loss of the sender.
        *lock(&shared.waiting) = None;
    });
}

impl Shared {
    fn take(&self, message: Value) {
        let Some(id) = message["id"].as_u64() else {
            lock(&self.events).push(message);
            self.total.send_modify(|total| *total += 1);
            return;
        };
        let waiting = lock(&self.waiting)
            .as_mut()
            .and_then(|waiting| waiting.remove(&id));
        // The caller may have given up.
        let _ = waiting.map(|answered| answered.send(message));
    }
}

/// Reads on to the end: a full pipe stops the process.
fn read_log(log: ChildStderr, shared: Arc<Shared>) {
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let mut log = lock(&shared.log);
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// A failed test elsewhere leaves these plain values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
