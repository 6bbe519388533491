//! Envoy as a child process: found, started, awaited, ended.
//!
//! The child must end with this process however that ends, also by SIGKILL. On Linux a process can ask for a signal
//! when its parent dies (PR_SET_PDEATHSIG), but only for itself, and the wish survives `exec`. So Envoy is started
//! through this program once more, which makes the wish and then becomes Envoy.

use std::{
    env, fmt, io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::process::Child;

use crate::Failure;

/// The argument that makes this program [`become_child`].
pub(crate) const AS_CHILD: &str = "--become-child-of";
/// How long Envoy may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The program to run: an Envoy, or func-e that brings one.
pub(crate) struct Program {
    path: PathBuf,
    is_func_e: bool,
}

impl Program {
    /// `ENVOY`, else the project's own, else `envoy`, else `func-e` on `PATH`.
    pub(crate) fn find() -> Result<Self, Failure> {
        if let Some(given) = env::var_os("ENVOY").filter(|given| !given.is_empty()) {
            let given = PathBuf::from(given);
            return on_path(&given)
                .map(Self::at)
                .ok_or_else(|| Failure::new(format!("ENVOY={} is not there", given.display())));
        }
        [".venv/bin/envoy", "envoy", "func-e"]
            .iter()
            .find_map(|name| on_path(Path::new(name)))
            .map(Self::at)
            .ok_or_else(|| {
                Failure::new("no Envoy found").hint("run `make setup`, or set ENVOY to one")
            })
    }

    fn at(path: PathBuf) -> Self {
        let is_func_e = path.file_name().is_some_and(|name| name == "func-e");
        Self { path, is_func_e }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        if self.is_func_e {
            f.write_str(" run")
        } else {
            Ok(())
        }
    }
}

/// The file itself if it has a directory, else the first of that name on `PATH`.
fn on_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// A running Envoy.
pub(crate) struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts Envoy with the secret in its environment, where the module reads it.
    pub(crate) fn start(
        program: &Program,
        configuration: &Path,
        secret: &str,
    ) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::new(format!("cannot start {program}: {error}"));
        let mut command = tokio::process::Command::new(env::current_exe().map_err(cannot)?);
        command
            .arg(AS_CHILD)
            .arg(std::process::id().to_string())
            .arg(&program.path);
        if program.is_func_e {
            command.arg("run");
        }
        command
            .arg("-c")
            .arg(configuration)
            // Two workers, so that the cache has something to share, on machines of every size.
            .args(["--concurrency", "2"])
            // No hot restart: another Envoy on this machine is none of our business.
            .args(["--disable-hot-restart", "--log-level", "warning"])
            // What the module says of itself.
            .args(["--component-log-level", "wasm:info"])
            // Access log lines show up at once, not every ten seconds.
            .args(["--file-flush-interval-msec", "100"])
            .env("MAS_SECRET", secret)
            .kill_on_drop(true);
        Ok(Self {
            child: command.spawn().map_err(cannot)?,
        })
    }

    /// Resolves when the admin interface says that Envoy serves.
    pub(crate) async fn until_ready(&mut self, admin: SocketAddr) -> Result<(), Failure> {
        const POLL: Duration = Duration::from_millis(50);

        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut polls = tokio::time::interval(POLL);
        let mut reminder = tokio::time::interval(Duration::from_secs(10));
        reminder.reset();
        loop {
            tokio::select! {
                died = self.died() => return Err(died),
                _ = polls.tick() => if is_ready(&client, admin).await {
                    return Ok(());
                },
                _ = reminder.tick() => println!("still waiting for Envoy to be ready"),
            }
        }
    }

    /// Resolves when Envoy ends without being asked to by [`Self::stop`].
    pub(crate) async fn died(&mut self) -> Failure {
        let how = match self.child.wait().await {
            Ok(status) if status.success() => {
                return Failure::new("Envoy was told to end")
                    .hint("by a signal, or by /quitquitquit of its admin interface");
            }
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        Failure::new(format!("Envoy ended by itself: {how}"))
            .hint("its own last lines above say why")
    }

    /// Ends Envoy and returns when it is gone.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?))
        {
            // It may have ended in this moment; then there is nothing to signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .is_err()
        {
            eprintln!("Envoy did not end in {} s: killed", PATIENCE.as_secs());
            let _ = self.child.kill().await;
        }
    }
}

async fn is_ready(client: &Client<HttpConnector, Empty<Bytes>>, admin: SocketAddr) -> bool {
    let Ok(uri) = format!("http://{admin}/ready").parse() else {
        return false;
    };
    client
        .get(uri)
        .await
        .is_ok_and(|response| response.status().is_success())
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// The child's side: ties this process to its parent and becomes the program. Returns only on failure.
pub(crate) fn become_child(arguments: &[String]) -> Result<(), Failure> {
    let [parent, program, arguments @ ..] = arguments else {
        return Err(Failure::new(format!(
            "{AS_CHILD} is for this program's own use"
        )));
    };
    if !is_parent(parent) {
        return Err(Failure::new("the parent is gone"));
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::new(format!("cannot tie Envoy to this process: {error}")))?;
    // The parent may have died before the wish was made.
    if !is_parent(parent) {
        return Err(Failure::new("the parent is gone"));
    }
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::new(format!("cannot run {program}: {error}")))
}

fn is_parent(id: &str) -> bool {
    getppid().is_some_and(|parent| parent.as_raw_nonzero().to_string() == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn func_e_is_told_apart() {
        assert_eq!(
            Program::at("/usr/bin/envoy".into()).to_string(),
            "/usr/bin/envoy"
        );
        assert_eq!(
            Program::at("/usr/bin/func-e".into()).to_string(),
            "/usr/bin/func-e run"
        );
    }

    #[test]
    fn programs_are_looked_up() {
        assert!(on_path(Path::new("sh")).is_some_and(|file| file.is_absolute()));
        assert_eq!(on_path(Path::new("./no/such/program")), None);
        assert_eq!(on_path(Path::new("no-such-program-anywhere")), None);
    }

    #[test]
    fn a_child_of_somebody_else_refuses_to_run() {
        let arguments = ["0", "true"].map(str::to_owned);
        assert!(become_child(&arguments).is_err());
    }
}
