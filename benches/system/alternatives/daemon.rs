//! Servers that are no Envoy: each runs in a process group of its own, which ends when the value is dropped and also when
//! the bench ends in any other way.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::Process;

/// Runs a program until it ends or standard input does. Whatever it started ends with it, and its directory goes.
const RUN: &str = r#"
dir=$1
shift
# The shell itself would say on what signal the program ended.
exec 3<&0 4>&2 2>/dev/null
{ read -r _ <&3; kill -TERM 0; } >/dev/null &
trap : TERM
"$@" 3<&- </dev/null 2>&4 4>&-
rm -rf -- "$dir"
"#;

const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Another program may take a port between the choice and the server's start.
const TRIES: u32 = 5;

/// A running server.
pub struct Daemon {
    child: Child,
    /// What it runs in, and what it made of a configuration.
    dir: TempDir,
}

impl Daemon {
    /// Starts a program.
    pub fn start(program: &Path, arguments: &[&OsStr], dir: TempDir) -> Self {
        let child = Command::new("sh")
            .args(["-c", RUN, "sh"])
            .arg(dir.path())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        Self { child, dir }
    }

    /// The first line that it writes to standard output.
    pub fn first_line(&mut self) -> String {
        let output = self.child.stdout.take().expect("a pipe");
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        read.expect("the program says something");
        line.trim().to_owned()
    }

    /// What it costs, with all that it started.
    pub fn process(&self) -> Process {
        Process::with_children(self.child.id())
    }

    /// Waits until it takes connections; false if it ends instead.
    fn takes_connections(&mut self, addr: SocketAddr) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < START_LIMIT {
            if TcpStream::connect(addr).is_ok() {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            thread::sleep(POLL);
        }
        panic!("{:?} does not take connections", self.dir.path());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It fails only if there is nothing to wait for.
        let _ = self.child.wait();
    }
}

/// Where a server listens.
#[derive(Clone, Copy)]
pub struct Addrs {
    pub http1: SocketAddr,
    pub http2: SocketAddr,
}

impl Addrs {
    /// Both protocols at one address.
    pub fn one(addr: SocketAddr) -> Self {
        Self {
            http1: addr,
            http2: addr,
        }
    }
}

/// A server with one of the configurations in `benches/alternatives`.
pub struct Configuration<'a> {
    /// In `benches/alternatives`.
    pub file: &'a str,
    pub workers: u32,
    pub mas: SocketAddr,
    pub mas_tls: SocketAddr,
}

impl Configuration<'_> {
    /// Starts `program` with it, where `arguments` gives the command line for a file.
    pub fn start(
        &self,
        program: &Path,
        arguments: impl Fn(&Path) -> Vec<&OsStr>,
    ) -> (Daemon, Addrs) {
        for _ in 0..TRIES {
            let addrs = Addrs {
                http1: free(),
                http2: free(),
            };
            let dir = directory();
            let file = self.write(dir.path(), addrs);
            let mut daemon = Daemon::start(program, &arguments(&file), dir);
            if daemon.takes_connections(addrs.http1) {
                return (daemon, addrs);
            }
        }
        panic!("{} does not start, see above", self.file);
    }

    /// Writes it with all names replaced.
    fn write(&self, dir: &Path, addrs: Addrs) -> PathBuf {
        let sources = sources();
        let values = [
            ("DIR", dir.display().to_string()),
            ("CACHE", dir.join("cache").display().to_string()),
            ("SOURCES", dir.display().to_string()),
            ("WORKERS", self.workers.to_string()),
            ("THREADS", (128 * self.workers).to_string()),
            ("PORT", addrs.http1.port().to_string()),
            ("PORT_HTTP2", addrs.http2.port().to_string()),
            ("MAS", self.mas.to_string()),
            ("MAS_HOST", self.mas.ip().to_string()),
            ("MAS_PORT", self.mas.port().to_string()),
            ("MAS_TLS", self.mas_tls.to_string()),
        ];
        // All of them, since one may include another.
        for entry in fs::read_dir(sources).expect("benches/alternatives") {
            let path = entry.expect("a file").path();
            let mut text = fs::read_to_string(&path).expect("text");
            for (name, value) in &values {
                text = text.replace(&format!("@{name}@"), value);
            }
            let name = path.file_name().expect("a name");
            fs::write(dir.join(name), text).expect("a file in our own directory");
        }
        answer_with_files(dir);
        dir.join(self.file)
    }
}

/// Where the configurations are.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/alternatives")
}

/// The file that Apache answers with.
fn answer_with_files(dir: &Path) {
    let folder = dir.join("files/_matrix/client/v3/account");
    fs::create_dir_all(&folder).expect("a folder in our own directory");
    fs::write(folder.join("whoami"), "").expect("a file in our own directory");
}

/// A directory in memory if there is one, which servers may read as whatever user they run.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let dir = tempfile::Builder::new()
        .prefix("matrix-edge-auth-bench-")
        .tempdir_in(parent)
        .expect("a temporary directory");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), all).expect("our own directory");
    dir
}

/// A port that nothing listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener")
}

/// A directory for a server that needs none of this.
pub fn empty_directory() -> TempDir {
    directory()
}
