//! A real Envoy with the built module, on free ports.
//!
//! ```ignore
//! let envoy = Envoy::builder().plugin(json!({..})).homeserver(addr).mas(addr).start().await;
//! let response = http::send(envoy.addr(), &Request::get("/_matrix/client/v3/sync")).await;
//! ```
//!
//! Envoy binds port 0 and tells the ports through its admin interface. It ends when the value is dropped,
//! also by a panic, and then its log is printed: `cargo test` shows it for failed tests only.

pub mod bootstrap;
pub mod log;
pub mod stats;
pub mod workers;

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use matrix_edge_auth::resolver::TICK;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::{log::Log, stats::Stats};
use super::{
    http::{self, Request, within_limit},
    product_time,
};

/// How often a condition that Envoy gives no event for is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How soon a worker has told what it has counted: half a tick later than it should.
const TOLD_WITHIN: Duration = TICK.saturating_add(Duration::from_millis(125));

/// How long an Envoy may take to start that an emulator runs, on a busy machine.
const SLOW_START: Duration = Duration::from_secs(180);

/// How an Envoy is to start.
#[derive(Default)]
pub struct Builder {
    workers: Option<u32>,
    plugin: Option<Value>,
    internal_listeners: Vec<InternalListener>,
    clusters: Vec<Value>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    wrapper: Vec<OsString>,
    edits: Vec<Edit>,
    dynamic_listeners: bool,
    dynamic_endpoints: Option<String>,
    hot_restart: HotRestart,
}

/// Whether another process takes over from this one, or this one from another.
#[derive(Default)]
enum HotRestart {
    #[default]
    Off,
    First,
    Next {
        base_id: String,
        addrs: Addrs,
    },
}

struct InternalListener {
    name: String,
    plugin: Value,
    cluster: String,
}

type Edit = Box<dyn FnOnce(&mut Value) + Send>;

impl Builder {
    /// Worker threads; 1 unless said.
    #[must_use]
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Puts the module before the router, with this plugin configuration. Without it there is only the router.
    #[must_use]
    pub fn plugin(mut self, configuration: Value) -> Self {
        self.plugin = Some(configuration);
        self
    }

    /// Leaves the module away, to compare.
    #[must_use]
    pub fn without_plugin(mut self) -> Self {
        self.plugin = None;
        self
    }

    /// Adds a listener with the same module and VM as the first one, and with a plugin configuration of its
    /// own. All its requests are routed to `cluster`.
    #[must_use]
    pub fn internal_listener(mut self, name: &str, plugin: Value, cluster: &str) -> Self {
        self.internal_listeners.push(InternalListener {
            name: name.to_owned(),
            plugin,
            cluster: cluster.to_owned(),
        });
        self
    }

    /// The cluster `homeserver`, which all requests to the first listener are routed to.
    #[must_use]
    pub fn homeserver(mut self, addr: SocketAddr) -> Self {
        self.clusters
            .push(bootstrap::static_cluster("homeserver", addr));
        self
    }

    /// The cluster `mas`.
    #[must_use]
    pub fn mas(mut self, addr: SocketAddr) -> Self {
        self.clusters.push(bootstrap::static_cluster("mas", addr));
        self
    }

    /// Sets an environment variable of Envoy and lets the module read it.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an option to Envoy's command line.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Starts Envoy through another program, which runs the command line that follows its own arguments. Envoy may then
    /// take [`SLOW_START`].
    #[must_use]
    pub fn through(mut self, wrapper: impl IntoIterator<Item = OsString>) -> Self {
        self.wrapper = wrapper.into_iter().collect();
        self
    }

    /// Changes the finished bootstrap configuration. [`bootstrap`] finds the parts of it.
    #[must_use]
    pub fn bootstrap(mut self, edit: impl FnOnce(&mut Value) + Send + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Delivers the listeners through a file, so that [`Envoy::update_listener`] can change one.
    #[must_use]
    pub fn dynamic_listeners(mut self) -> Self {
        self.dynamic_listeners = true;
        self
    }

    /// Delivers the endpoints of a cluster through a file, so that [`Envoy::set_endpoints`] can take them away.
    #[must_use]
    pub fn dynamic_endpoints(mut self, cluster: &str) -> Self {
        self.dynamic_endpoints = Some(cluster.to_owned());
        self
    }

    /// Lets another Envoy take over from this one, by [`taking_over_from`](Self::taking_over_from).
    #[must_use]
    pub fn replaceable(mut self) -> Self {
        self.hot_restart = HotRestart::First;
        self
    }

    /// Starts as the next process of a hot restart: on the sockets of `before`, which then drains.
    ///
    /// # Panics
    ///
    /// If that is not [`replaceable`](Self::replaceable).
    #[must_use]
    pub fn taking_over_from(mut self, before: &Envoy) -> Self {
        let base_id = std::fs::read_to_string(before.dir().join(BASE_ID));
        self.hot_restart = HotRestart::Next {
            base_id: base_id.expect("a replaceable Envoy").trim().to_owned(),
            addrs: before.addrs.clone(),
        };
        self
    }

    /// Starts Envoy and returns once it takes requests.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(self) -> Envoy {
        self.try_start()
            .await
            .unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Starts Envoy and returns once it takes requests, or has ended.
    ///
    /// # Errors
    ///
    /// If Envoy refuses the configuration.
    pub async fn try_start(self) -> Result<Envoy, Refused> {
        let dir = tempfile::Builder::new()
            .prefix("matrix-edge-auth-")
            .tempdir()
            .expect("a temporary directory");
        let mut config = bootstrap::new(self.listeners(), self.clusters);
        for edit in self.edits {
            edit(&mut config);
        }
        if let HotRestart::Next { addrs, .. } = &self.hot_restart {
            for listener in bootstrap::listeners(&mut config) {
                let name = listener["name"].as_str().expect("a listener has a name");
                let addr = addrs[name];
                listener["address"] = bootstrap::address(addr);
            }
        }
        let listeners = self
            .dynamic_listeners
            .then(|| bootstrap::move_listeners_to(&mut config, &dir.path().join(LISTENERS)));
        if let Some(listeners) = &listeners {
            write_resources(dir.path(), LISTENERS, 0, listeners);
        }
        let endpoints = self.dynamic_endpoints.map(|cluster| {
            let path = dir.path().join(ENDPOINTS);
            let resource = bootstrap::move_endpoints_to(&mut config, &cluster, &path);
            let resources = json!([resource]);
            write_resources(dir.path(), ENDPOINTS, 0, &resources);
            (cluster, resources)
        });
        let config_path = dir.path().join("envoy.json");
        write(&config_path, config.to_string().as_bytes());
        let admin_path = dir.path().join("admin-address");

        let workers = self.workers.unwrap_or(1);
        let limit = if self.wrapper.is_empty() {
            http::LIMIT
        } else {
            SLOW_START
        };
        let mut words = self.wrapper.into_iter().chain([binary().into()]);
        let mut command = Command::new(words.next().expect("Envoy itself"));
        command
            .args(words)
            .args(["--log-level", "info"])
            // Not the list of everything that is compiled in.
            .args(["--component-log-level", "main:warning"])
            .args(["--concurrency", &workers.to_string()])
            // Access log lines are held back this long.
            .args(["--file-flush-interval-msec", "20"])
            .arg("--config-path")
            .arg(&config_path)
            .arg("--config-yaml")
            .arg(stats_tags())
            .arg("--admin-address-path")
            .arg(&admin_path)
            .args(self.hot_restart.arguments(dir.path()))
            .args(self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot run {}: {error}; run `make setup`, or set ENVOY to an Envoy binary",
                command.get_program().display()
            )
        }));
        product_time::watch(process.0.id());
        let log = Log::of(&mut process.0);
        let ready = tokio::time::timeout(limit, until_ready(&mut process, &admin_path)).await;
        let ready = ready.unwrap_or_else(|_| {
            panic!(
                "waited {limit:?} in vain for Envoy to start; it logged:\n{}",
                log.text()
            )
        });
        let Some((admin, addrs)) = ready else {
            return Err(Refused {
                log: log.finished().await,
            });
        };
        Ok(Envoy {
            process: Mutex::new(process),
            workers,
            addrs,
            admin,
            log,
            listeners: tokio::sync::Mutex::new(Listeners {
                version: 0,
                resources: listeners.unwrap_or_default(),
            }),
            endpoints,
            dir,
        })
    }

    /// The configured listeners, the gateway first.
    fn listeners(&self) -> Vec<Value> {
        let environment: Vec<&str> = self.environment.iter().map(|(name, _)| &**name).collect();
        let mut shipped = shipped();
        let capabilities = bootstrap::plugin(bootstrap::http_manager(&mut shipped));
        let capabilities = capabilities[bootstrap::CAPABILITIES].take();
        let filter = |listener: &str, plugin: &Value| {
            bootstrap::wasm_filter(&module(), listener, plugin, &environment, &capabilities)
        };
        let plugin = self.plugin.as_ref();
        let gateway = plugin.map(|plugin| filter(bootstrap::GATEWAY, plugin));
        let gateway = bootstrap::new_listener(bootstrap::GATEWAY, gateway, "homeserver");
        let internal = self.internal_listeners.iter().map(|listener| {
            let filter = filter(&listener.name, &listener.plugin);
            bootstrap::new_listener(&listener.name, Some(filter), &listener.cluster)
        });
        [gateway].into_iter().chain(internal).collect()
    }
}

impl HotRestart {
    fn arguments(&self, dir: &Path) -> Vec<OsString> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect();
        match self {
            Self::Off => words(&["--disable-hot-restart"]),
            Self::First => vec![
                "--use-dynamic-base-id".into(),
                "--base-id-path".into(),
                dir.join(BASE_ID).into(),
            ],
            Self::Next { base_id, .. } => words(&["--base-id", base_id, "--restart-epoch", "1"]),
        }
    }
}

/// Envoy ended instead of starting.
pub struct Refused {
    /// Everything it logged.
    pub log: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy did not start; it logged:\n{}", self.log)
    }
}

/// A running Envoy.
pub struct Envoy {
    process: Mutex<Process>,
    workers: u32,
    addrs: Addrs,
    admin: SocketAddr,
    log: Log,
    listeners: tokio::sync::Mutex<Listeners>,
    /// The cluster of [`Builder::dynamic_endpoints`], and its endpoints at the start.
    endpoints: Option<(String, Value)>,
    dir: TempDir,
}

impl Envoy {
    /// An Envoy with one worker, no module and no clusters, until told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The address of the first listener.
    pub fn addr(&self) -> SocketAddr {
        self.listener(bootstrap::GATEWAY)
    }

    /// The address of the listener called `name`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self
            .addrs
            .get(name)
            .unwrap_or_else(|| panic!("there is no listener {name}"))
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A directory that lives as long as this Envoy.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All statistics, as Prometheus sees them, with all that has happened before: a worker tells its counts at its tick.
    pub async fn stats(&self) -> Stats {
        let had = product_time::OfWorkers::measure(self.pid());
        while had.so_far() < TOLD_WITHIN {
            tokio::time::sleep(POLL).await;
        }
        self.stats_so_far().await
    }

    /// All statistics, as far as the workers have told.
    pub async fn stats_so_far(&self) -> Stats {
        let text = http::send(self.admin, &Request::get("/stats/prometheus")).await;
        Stats::parse(text.text())
    }

    /// One of Envoy's own statistics, by the name that Envoy gives it; 0 if it does not exist yet.
    pub async fn stat(&self, name: &str) -> u64 {
        own_stat(self.admin, name).await
    }

    /// Resolves when one of Envoy's own statistics is as `wanted`.
    pub async fn wait_for_stat(&self, name: &str, wanted: impl Fn(u64) -> bool) {
        within_limit(name, async {
            while !wanted(self.stat(name).await) {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    /// What was logged so far, access log lines on standard output included.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Resolves when `text` was logged, with the line that it is in.
    pub async fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_after(0, text).await
    }

    async fn wait_for_log_after(&self, from: usize, text: &str) -> String {
        within_limit(
            &format!("{text:?} in the log"),
            self.log.wait_for(from, text),
        )
        .await
    }

    /// Whether the process runs.
    pub fn is_alive(&self) -> bool {
        self.process.lock().expect("no panic while locked").runs()
    }

    fn pid(&self) -> u32 {
        self.process.lock().expect("no panic while locked").0.id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "kill -s {name}"
        );
    }

    /// Resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse().ok())
            .expect("the process runs");
        1_024 * kib
    }

    /// The memory that Envoy's allocator has in use, as its overload manager counts it: of what it has from the system, all
    /// but what it has given back or could give back.
    pub async fn heap_bytes(&self) -> u64 {
        let memory = http::send(self.admin, &Request::get("/memory"))
            .await
            .json();
        let bytes = |name: &str| -> u64 {
            let bytes = memory[name].as_str().and_then(|bytes| bytes.parse().ok());
            bytes.expect("a number of bytes")
        };
        bytes("heap_size") - bytes("pageheap_unmapped") - bytes("pageheap_free")
    }

    /// The time that the process has spent on the CPU, to a hundredth of a second.
    pub fn cpu_time(&self) -> Duration {
        let pid = self.pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which is in brackets, user time is the twelfth and system time the thirteenth field.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("the process runs"))
            .sum();
        Duration::from_millis(10 * ticks)
    }

    /// Takes away all endpoints of the cluster of [`Builder::dynamic_endpoints`], or gives them back, and waits until
    /// Envoy knows.
    ///
    /// # Panics
    ///
    /// If there is no such cluster.
    pub async fn set_endpoints(&self, are_there: bool) {
        let (cluster, resources) = self.endpoints.as_ref().expect("dynamic endpoints");
        let mut resources = resources.clone();
        if !are_there {
            resources[0]["endpoints"] = json!([]);
        }
        write_resources(self.dir.path(), ENDPOINTS, 1, &resources);
        let members = format!("cluster.{cluster}.membership_total");
        self.wait_for_stat(&members, |members| (members > 0) == are_there)
            .await;
    }

    /// Replaces the first listener by an edited one, atomically, and waits for Envoy to refuse it, or for all
    /// workers to take new connections with it.
    ///
    /// # Errors
    ///
    /// If Envoy refuses: what it says.
    ///
    /// # Panics
    ///
    /// If it is no listener at all.
    pub async fn update_listener(&self, edit: impl FnOnce(&mut Value)) -> Result<(), String> {
        self.update_listener_called(bootstrap::GATEWAY, edit).await
    }

    /// Like [`update_listener`](Self::update_listener), for the one called `name`.
    ///
    /// # Errors
    ///
    /// If Envoy refuses: what it says.
    ///
    /// # Panics
    ///
    /// If it is no listener at all.
    pub async fn update_listener_called(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Value),
    ) -> Result<(), String> {
        self.update_listeners(|listeners| {
            let listener = listeners
                .iter_mut()
                .find(|listener| listener["name"] == name)
                .unwrap_or_else(|| panic!("there is no listener {name}"));
            edit(listener);
        })
        .await
    }

    /// Replaces all listeners that `edit` changes, in one update, and waits for Envoy to refuse it, or for all workers
    /// to take new connections with it. They must not be what they were: Envoy does nothing then.
    ///
    /// # Errors
    ///
    /// If Envoy refuses: what it says.
    ///
    /// # Panics
    ///
    /// If it is no listener at all.
    pub async fn update_listeners(&self, edit: impl FnOnce(&mut [Value])) -> Result<(), String> {
        const CREATED: &str = "listener_manager.listener_create_success";
        const REFUSED: &str = "listener_manager.lds.update_rejected";
        const UNREADABLE: &str = "listener_manager.lds.update_failure";
        let mut listeners = self.listeners.lock().await;
        // Then all that were there at the start are counted.
        self.wait_for_stat("listener_manager.workers_started", |started| started == 1)
            .await;
        let created = self.stat(CREATED).await;
        let refused = self.stat(REFUSED).await;
        let logged = self.log.length();
        let before = listeners.resources.as_array().expect("dynamic listeners");
        let mut edited = before.clone();
        edit(&mut edited);
        let changed = before.iter().zip(&edited).filter(|(old, new)| old != new);
        // Each worker counts once.
        let awaited = created + u64::from(self.workers) * changed.count() as u64;
        let edited = Value::Array(edited);
        listeners.version += 1;
        write_resources(self.dir.path(), LISTENERS, listeners.version, &edited);
        let is_taken = within_limit("Envoy to read the listener", async {
            loop {
                assert_eq!(
                    self.stat(UNREADABLE).await,
                    0,
                    "Envoy cannot read the listener"
                );
                if self.stat(REFUSED).await > refused {
                    return false;
                }
                if self.stat(CREATED).await >= awaited {
                    return true;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
        if !is_taken {
            self.wait_for_log_after(logged, "Filesystem config update")
                .await;
            return Err(self.log()[logged..].to_owned());
        }
        listeners.resources = edited;
        Ok(())
    }
}

/// The listeners last delivered and taken.
#[derive(Default)]
struct Listeners {
    version: u64,
    resources: Value,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Envoy's log\n{}---", self.log());
        }
    }
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LISTENERS: &str = "listeners.json";
const ENDPOINTS: &str = "endpoints.json";
const BASE_ID: &str = "base-id";

/// Where each listener listens, by its name.
type Addrs = HashMap<String, SocketAddr>;

/// The addresses of the admin interface and of the listeners once Envoy takes requests; `None` if it ends before that.
async fn until_ready(process: &mut Process, admin_path: &Path) -> Option<(SocketAddr, Addrs)> {
    loop {
        if !process.runs() {
            return None;
        }
        let written = std::fs::read_to_string(admin_path).unwrap_or_default();
        if let Ok(admin) = written.parse()
            && let Some(addrs) = listener_addrs(admin).await
        {
            return Some((admin, addrs));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `None` while Envoy is starting.
async fn listener_addrs(admin: SocketAddr) -> Option<Addrs> {
    // An Envoy that compiles a module answers nobody, and an emulated one takes long for that.
    let ready = http::try_send_without_limit(admin, &Request::get("/ready")).await?;
    if ready.status != 200 {
        return None;
    }
    let listeners = Request::get("/listeners?format=json");
    let listeners = http::try_send_without_limit(admin, &listeners).await?;
    let listeners = listeners.json();
    let listeners = listeners["listener_statuses"].as_array()?;
    Some(listeners.iter().map(name_and_addr).collect())
}

fn name_and_addr(listener: &Value) -> (String, SocketAddr) {
    let name = listener["name"].as_str().expect("a listener has a name");
    let socket = &listener["local_address"]["socket_address"];
    let address = socket["address"].as_str().and_then(|ip| ip.parse().ok());
    let port = socket["port_value"].as_u64().map(u16::try_from);
    let (Some(ip), Some(Ok(port))) = (address, port) else {
        panic!("a listener has an address and a port: {listener}");
    };
    (name.to_owned(), SocketAddr::new(ip, port))
}

async fn own_stat(admin: SocketAddr, name: &str) -> u64 {
    let pattern = format!("/stats?filter=^{}$", name.replace('.', "\\."));
    let response = http::send(admin, &Request::get(pattern)).await;
    let value = response
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map_or(0, |value| {
        value.trim().parse().expect("a statistic is a number")
    })
}

/// Puts resources into the file of this name, which Envoy reads when it is moved into place.
fn write_resources(dir: &Path, name: &str, version: u64, resources: &Value) {
    let response = json!({"version_info": version.to_string(), "resources": resources});
    let new = dir.join(format!("{name}.new"));
    write(&new, response.to_string().as_bytes());
    std::fs::rename(new, dir.join(name)).expect("a file in our own directory can be renamed");
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// `ENVOY`, or the one of the project's own environment, or the one on the path.
fn binary() -> PathBuf {
    if let Some(chosen) = env::var_os("ENVOY") {
        return chosen.into();
    }
    let own = repository().join(".venv/bin/envoy");
    if own.exists() { own } else { "envoy".into() }
}

/// `MATRIX_EDGE_AUTH_WASM`, or what `make build` leaves.
pub fn module() -> PathBuf {
    let module = env::var_os("MATRIX_EDGE_AUTH_WASM").map_or_else(
        || repository().join("dist/matrix-edge-auth.wasm"),
        PathBuf::from,
    );
    assert!(
        module.exists(),
        "{} does not exist; run `make build`",
        module.display()
    );
    module
}

/// The statistics configuration as shipped, so that it is tested too.
fn stats_tags() -> String {
    read("envoy/stats_tags.yaml")
}

/// The shipped configuration of a whole Envoy.
pub fn shipped() -> Value {
    yaml(&read("envoy/local/envoy.yaml"))
}

/// A shipped configuration with the built module, and with its listeners on free ports of loopback. `replaced` are texts
/// of the file, and what stands for them.
pub fn shipped_at(path: &str, replaced: &[(&str, &str)]) -> Value {
    let module = module().display().to_string();
    let mut text = read(path);
    for place in [
        "/etc/envoy/matrix-edge-auth.wasm",
        "dist/matrix-edge-auth.wasm",
    ] {
        text = text.replace(
            &format!("filename: {place}"),
            &format!("filename: {module}"),
        );
    }
    for (before, after) in replaced {
        text = text.replace(before, after);
    }
    let mut config = yaml(&text);
    // Envoy is given the same ones beside the file.
    let tags = yaml(&stats_tags());
    assert_eq!(
        config["stats_config"].take(),
        tags["stats_config"],
        "the stats_config of {path}"
    );
    config["admin"]["address"]["socket_address"]["port_value"] = 0.into();
    for listener in bootstrap::listeners(&mut config) {
        bootstrap::move_listener(listener);
    }
    config
}

/// Reads YAML.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("not YAML: {error}"))
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
