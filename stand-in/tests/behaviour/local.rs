//! The runner of the local stack serves its page, and ends what it started, however it ends itself. Envoy is played by a shell.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use http::{Request, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::caller;

/// Writes a line, then does nothing for longer than any test runs.
const IDLE: &str = "#!/bin/sh\necho envoy-is-running\nexec sleep 600\n";

#[test]
fn envoy_ends_with_a_terminated_runner() {
    let mut runner = Runner::start("terminated", IDLE);
    runner.wait_for_line("envoy-is-running");
    runner.signal(Signal::TERM);
    assert!(runner.wait().expect("it ends").success());
    runner.all_have_ended();
}

#[test]
fn envoy_ends_with_an_interrupted_runner() {
    let mut runner = Runner::start("interrupted", IDLE);
    runner.wait_for_line("envoy-is-running");
    runner.signal(Signal::INT);
    assert!(runner.wait().expect("it ends").success());
    runner.all_have_ended();
}

#[test]
fn envoy_ends_with_a_killed_runner() {
    let mut runner = Runner::start("killed", IDLE);
    runner.wait_for_line("envoy-is-running");
    runner.signal(Signal::KILL);
    assert!(!runner.wait().expect("it ends").success());
    runner.all_have_ended();
}

/// The page is of the runner's own MAS, sessions and ports, and it is there before Envoy is.
#[tokio::test]
async fn the_page_is_served_at_the_address_that_is_printed() {
    let mut runner = Runner::start("page", IDLE);
    let mas = runner.address_after("stand-in MAS: ");
    let page = runner.address_after("page: ");
    runner.wait_for_line("envoy-is-running");
    let get = async |path: &str| {
        let (status, body) = caller::send(Request::get(format!("http://{page}{path}")), "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    };
    let state = async || serde_json::from_str::<Value>(&get("/page/state").await).expect("JSON");

    let html = get("/").await;
    assert!(html.contains("<title>"), "{html}");
    let files = html.split('"').filter(|text| text.starts_with("/page."));
    let files: Vec<&str> = files.collect();
    assert_eq!(files, ["/page.css", "/page.js"]);
    for file in files {
        assert!(!get(file).await.is_empty(), "{file}");
    }
    let before = state().await;
    assert_eq!(before["mas"]["is_up"], true, "{before}");
    // Of the shipped configuration.
    assert_eq!(before["cache"]["ttl_ms"], 120_000, "{before}");

    // Whoever listens at an address that was freed may be another runner. A connection is of one of them for ever.
    let mut connection = TcpStream::connect(mas).expect("the runner's MAS");
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time");
    let kill =
        Request::post(format!("http://{page}/page/buttons/kill")).header("x-page-button", "1");
    let (status, told) = caller::send(kill, "").await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let after = state().await;
    assert_eq!(after["mas"]["is_up"], false, "{after}");
    match connection.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0, "MAS speaks unasked"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "MAS goes on"),
    }

    runner.signal(Signal::TERM);
    assert!(runner.wait().expect("it ends").success());
    runner.all_have_ended();
}

#[test]
fn the_runner_fails_when_envoy_ends_by_itself_or_by_somebody_else() {
    for (exit, error) in [
        ("exit 7", "error: Envoy ended by itself: exit code 7\n"),
        (
            "exit 0",
            "error: Envoy was told to end\n       by a signal, or",
        ),
    ] {
        let mut runner = Runner::start("died", &format!("#!/bin/sh\n{exit}\n"));
        assert_eq!(runner.wait().expect("it ends").code(), Some(1));
        let mut errors = String::new();
        let stderr = runner.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut errors).expect("text");
        assert!(errors.starts_with(error), "{errors}");
    }
}

#[test]
fn the_runner_says_what_is_missing() {
    let mut runner = Runner::start("missing", IDLE);
    runner.wait_for_line("envoy-is-running");
    runner.signal(Signal::TERM);
    runner.wait().expect("it ends");
    fs::remove_file(runner.directory.join("dist/matrix-edge-auth.wasm")).expect("it was there");
    let output = command(&runner.directory).output().expect("it runs");
    assert!(!output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: dist/matrix-edge-auth.wasm is missing\n       build it first: make build\n"
    );
}

/// A runner in a directory of its own; killed at the latest when dropped.
struct Runner {
    directory: PathBuf,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Runner {
    fn start(name: &str, envoy: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("local-{name}"));
        fs::create_dir_all(directory.join("envoy/local")).expect("a writable target directory");
        fs::create_dir_all(directory.join("dist")).expect("a writable target directory");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/local/envoy.yaml");
        fs::copy(shipped, directory.join("envoy/local/envoy.yaml"))
            .expect("the shipped configuration");
        fs::write(directory.join("dist/matrix-edge-auth.wasm"), "").expect("a writable directory");
        // A rename, since a file that is still open for writing cannot be run.
        fs::write(directory.join("envoy.new"), envoy).expect("a writable directory");
        fs::set_permissions(
            directory.join("envoy.new"),
            fs::Permissions::from_mode(0o755),
        )
        .expect("our own file");
        fs::rename(directory.join("envoy.new"), directory.join("envoy.sh")).expect("our own file");
        let mut child = command(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the runner starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            directory,
            child,
            output,
        }
    }

    fn wait_for_line(&mut self, wanted: &str) {
        self.line(wanted, |line| (line == wanted).then_some(()));
    }

    /// The address of a URL that the runner prints after these words.
    fn address_after(&mut self, words: &str) -> SocketAddr {
        let url = self.line(words, |line| {
            let url = line.strip_prefix(words)?.strip_prefix("http://")?;
            Some(url.trim_end_matches('/').to_owned())
        });
        url.parse().expect("an address")
    }

    /// What is found in the first line that has it.
    fn line<T>(&mut self, wanted: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line).expect("text");
            assert_ne!(read, 0, "ended before it said {wanted}");
            if let Some(found) = find(line.trim_end()) {
                return found;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .try_into()
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait()
    }

    /// Everyone who was started holds the pipe's other end: it ends when the last of them does.
    fn all_have_ended(&mut self) {
        self.output
            .read_to_string(&mut String::new())
            .expect("text");
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The runner in `directory`, with that directory's Envoy and nothing from this process's environment.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command
        .current_dir(directory)
        .env("ENVOY", directory.join("envoy.sh"))
        .env("CARGO_TARGET_DIR", "target");
    for variable in ["MAS_URL", "MAS_SECRET", "HOMESERVER_URL", "SERVER_NAME"] {
        command.env_remove(variable);
    }
    command
}
