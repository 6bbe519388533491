//! What is compared: the module, each alternative, and each proxy alone.

use std::{
    env,
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::daemon::{self, Addrs, Configuration, Daemon};
use crate::{
    process::Process,
    support::{
        envoy::{self, Builder, Envoy, bootstrap},
        synapse::{Synapse, process::python},
    },
};

/// What a server says is compared with this one.
pub const MODULE: &str = "the module";

/// The proxies alone: what each of the others adds to.
pub const ENVOY: &str = "Envoy alone";
const NGINX: &str = "nginx alone";
const APACHE: &str = "Apache alone";

/// Where Debian has modules of nginx and Apache.
const NGINX_JS: &str = "/usr/lib/nginx/modules/ngx_http_js_module.so";
const NGINX_LUA: &str = "/usr/lib/nginx/modules/ngx_http_lua_module.so";
const CJSON: &str = "/usr/share/doc/lua-cjson";
const APACHE_OPENIDC: &str = "/usr/lib/apache2/modules/mod_auth_openidc.so";

/// A server under test. It ends when dropped.
pub struct Contender {
    pub name: &'static str,
    /// The proxy without any of this, if this is not it.
    pub base: Option<&'static str>,
    pub addrs: Addrs,
    proxy: Process,
    service: Option<Process>,
    _running: Vec<Running>,
}

/// Kept for as long as it is measured.
#[expect(dead_code, reason = "held to be dropped")]
enum Running {
    Envoy(Box<Envoy>),
    Daemon(Daemon),
}

/// CPU time so far, in microseconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub proxy: f64,
    pub service: f64,
}

impl Cpu {
    pub fn together(self) -> f64 {
        self.proxy + self.service
    }
}

impl Contender {
    pub fn asks_mas(&self) -> bool {
        self.base.is_some()
    }

    /// What it says to a token that nobody has seen, then.
    pub fn status_while_mas_is_down(&self) -> u16 {
        // That cannot be configured.
        if self.base == Some(APACHE) { 401 } else { 503 }
    }

    pub fn cpu(&self) -> Cpu {
        Cpu {
            proxy: self.proxy.exact_cpu_micros(),
            service: self.service.as_ref().map_or(0.0, Process::exact_cpu_micros),
        }
    }
}

/// Where MAS is, with and without TLS.
#[derive(Clone, Copy)]
pub struct MasAddrs {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
}

/// Starts all that are installed, and says which are not.
pub async fn start_all(mas: MasAddrs, workers: u32) -> Vec<Contender> {
    let mut contenders = vec![
        of_envoy(ENVOY, None, Envoy::builder().concurrency(workers)).await,
        of_envoy(MODULE, Some(ENVOY), module(mas.plain, workers)).await,
    ];
    match env::var_os("EXT_AUTHZ_SERVICE") {
        Some(service) => {
            for (name, protocol) in [("ext_authz, HTTP", "http"), ("ext_authz, gRPC", "grpc")] {
                let service = Path::new(&service);
                contenders.push(ext_authz(name, protocol, service, mas.plain, workers).await);
            }
        }
        None => leave_out("ext_authz", "its service, which scripts/bench builds"),
    }
    let configuration = |file| Configuration {
        file,
        workers,
        mas: mas.plain,
        mas_tls: mas.tls,
    };
    let servers: [(_, _, Start, _, &[&str], _); 5] = [
        (NGINX, None, nginx, "nginx", &[], "nginx-alone.conf"),
        (
            "nginx auth_request, njs",
            Some(NGINX),
            nginx,
            "nginx",
            &[NGINX_JS],
            "nginx-auth-request.conf",
        ),
        (
            "nginx Lua, resty's method",
            Some(NGINX),
            nginx,
            "nginx",
            &[NGINX_LUA, CJSON],
            "nginx-lua.conf",
        ),
        (APACHE, None, apache, "apache2", &[], "apache-alone.conf"),
        (
            "Apache mod_auth_openidc",
            Some(APACHE),
            apache,
            "apache2",
            &[APACHE_OPENIDC],
            "apache-auth-openidc.conf",
        ),
    ];
    for (name, base, start, server, modules, file) in servers {
        if let Some(program) = program(server, modules) {
            contenders.push(start(name, base, program, &configuration(file)));
        }
    }
    contenders
}

fn module(mas: SocketAddr, workers: u32) -> Builder {
    // The longest that it takes; the others keep "inactive" for an hour.
    let plugin = crate::plugin(&json!({"cache": {"negative_ttl": "2m"}}));
    Envoy::builder()
        .concurrency(workers)
        .plugin(plugin)
        .mas(mas)
}

async fn of_envoy(name: &'static str, base: Option<&'static str>, builder: Builder) -> Contender {
    let envoy = crate::answering(builder).start().await;
    Contender {
        name,
        base,
        addrs: Addrs::one(envoy.addr()),
        proxy: Process::of(&envoy),
        service: None,
        _running: vec![Running::Envoy(Box::new(envoy))],
    }
}

async fn ext_authz(
    name: &'static str,
    protocol: &str,
    program: &Path,
    mas: SocketAddr,
    workers: u32,
) -> Contender {
    let mas = mas.to_string();
    let workers_text = workers.to_string();
    let arguments = [protocol, &mas, &workers_text].map(OsStr::new);
    let mut service = Daemon::start(program, &arguments, daemon::empty_directory());
    let addr: SocketAddr = service.first_line().parse().expect("an address");
    let file = format!("benches/alternatives/envoy-ext-authz-{protocol}.yaml");
    let mut shipped = envoy::yaml(&envoy::read(&file));
    let builder = Envoy::builder()
        .concurrency(workers)
        .bootstrap(move |config| {
            let mut cluster = shipped["cluster"].take();
            let at = bootstrap::static_cluster("ext_authz", addr);
            cluster["load_assignment"] = at["load_assignment"].clone();
            bootstrap::clusters(config).push(cluster);
            let filters = bootstrap::http_filters(bootstrap::http_manager(config));
            filters.insert(0, shipped["filter"].take());
        });
    let mut contender = of_envoy(name, Some(ENVOY), builder).await;
    contender.service = Some(service.process());
    contender._running.push(Running::Daemon(service));
    contender
}

/// Starts a server with its name in the tables, the one that it is compared with, its program and its configuration.
type Start = fn(&'static str, Option<&'static str>, PathBuf, &Configuration<'_>) -> Contender;

fn nginx(
    name: &'static str,
    base: Option<&'static str>,
    program: PathBuf,
    configuration: &Configuration<'_>,
) -> Contender {
    let started = configuration.start(&program, |file| {
        let folder = file.parent().expect("a file in a folder");
        vec![
            "-p".as_ref(),
            folder.as_os_str(),
            "-c".as_ref(),
            file.as_os_str(),
        ]
    });
    of_daemon(name, base, started)
}

fn apache(
    name: &'static str,
    base: Option<&'static str>,
    program: PathBuf,
    configuration: &Configuration<'_>,
) -> Contender {
    let started = configuration.start(&program, |file| {
        vec![
            "-D".as_ref(),
            "FOREGROUND".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ]
    });
    of_daemon(name, base, started)
}

fn of_daemon(
    name: &'static str,
    base: Option<&'static str>,
    (daemon, addrs): (Daemon, Addrs),
) -> Contender {
    Contender {
        name,
        base,
        addrs,
        proxy: daemon.process(),
        service: None,
        _running: vec![Running::Daemon(daemon)],
    }
}

/// A real Synapse with that MAS, if it is installed.
pub async fn synapse(mas: SocketAddr) -> Option<(Synapse, Process)> {
    let is_installed = env::var_os("SYNAPSE_PYTHON").is_some()
        || envoy::repository()
            .join(".venv/bin/synapse_homeserver")
            .exists();
    if !is_installed {
        leave_out("Synapse", &format!("Synapse in {}", python().display()));
        return None;
    }
    let synapse = Synapse::start("example.org", mas, "bench").await;
    let file = synapse.configuration_file();
    let process = Process::in_directory(file.parent().expect("a file in a folder"));
    Some((synapse, process))
}

/// A way into MAS with TLS: an Envoy that nobody counts, since one alternative asks over TLS only.
pub async fn with_tls(mas: SocketAddr) -> (Envoy, MasAddrs) {
    let dir = daemon::empty_directory();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(dir.path())
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let read = |name: &str| {
        let path = dir.path().join(name);
        std::fs::read_to_string(path).expect("openssl wrote it")
    };
    let certificate = json!({
        "certificate_chain": {"inline_string": read("certificate.pem")},
        "private_key": {"inline_string": read("key.pem")},
    });
    let envoy = Envoy::builder()
        .mas(mas)
        .bootstrap(|config| end_tls(bootstrap::listener(config), certificate))
        .start()
        .await;
    let tls = envoy.addr();
    (envoy, MasAddrs { plain: mas, tls })
}

/// Makes of a listener one that ends TLS and sends the bytes on.
fn end_tls(listener: &mut Value, certificate: Value) {
    listener["filter_chains"] = json!([{
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "mas",
                "cluster": "mas",
            },
        }],
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [certificate]},
            },
        },
    }]);
}

/// A program with all these parts; says which is missing, once.
fn program(name: &str, parts: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where not every user looks.
    let program = env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|program| program.exists());
    let missing = parts.iter().find(|part| !Path::new(part).exists());
    match (&program, missing) {
        (None, _) => leave_out(name, name),
        (_, Some(missing)) => leave_out(name, missing),
        _ => return program,
    }
    None
}

fn leave_out(what: &str, missing: &str) {
    println!("  left out: {what}, since this is not installed: {missing}");
}
