//! What a process writes to its standard output and error, line by line, as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    process::Child,
    thread,
};

use tokio::sync::watch;

/// The output of a child process.
pub struct Log {
    written: watch::Receiver<String>,
}

impl Log {
    /// Collects the piped output of `child` until it ends.
    pub fn of(child: &mut Child) -> Self {
        let (sender, written) = watch::channel(String::new());
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stdout| Box::new(stdout) as _),
            child.stderr.take().map(|stderr| Box::new(stderr) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while lines
                    .read_until(b'\n', &mut line)
                    .is_ok_and(|read| read > 0)
                {
                    sender.send_modify(|log| log.push_str(&String::from_utf8_lossy(&line)));
                    line.clear();
                }
            });
        }
        Self { written }
    }

    /// What was written so far.
    pub fn text(&self) -> String {
        self.written.borrow().clone()
    }

    /// How many bytes were written so far.
    pub fn length(&self) -> usize {
        self.written.borrow().len()
    }

    /// Resolves when `text` was written after the first `from` bytes, with the line that it is in.
    ///
    /// # Panics
    ///
    /// If the process ends before that.
    pub async fn wait_for(&self, from: usize, text: &str) -> String {
        let mut written = self.written.clone();
        let log = written
            .wait_for(|log| log[from..].contains(text))
            .await
            .unwrap_or_else(|_| panic!("Envoy ended without writing {text:?}"));
        log[from..]
            .lines()
            .find(|line| line.contains(text))
            .unwrap_or_default()
            .to_owned()
    }

    /// Everything, once the process has ended.
    pub async fn finished(self) -> String {
        let mut written = self.written.clone();
        // The senders go with the streams.
        while written.changed().await.is_ok() {}
        self.text()
    }
}
