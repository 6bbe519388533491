//! `README.md` is true: its configuration runs in an Envoy before a MAS with TLS, its commands are run from top to bottom,
//! and each failure shows as it says.
//!
//! `matrix-edge-auth check` of the same configuration is in the tests of that program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Fault, Mas, Options, Session},
};
use tempfile::TempDir;

use super::{
    edge::{WHOAMI, new_token},
    pages::{Step, blocks, outcome, steps},
    tls,
};
use crate::support::{
    envoy::{Envoy, bootstrap, module, read, repository, yaml},
    http::{self, Request, within_limit},
};

const PAGE: &str = "README.md";

/// How often a command is tried until it prints what it should.
const POLL: Duration = Duration::from_millis(50);

/// What the page says in its words about a failure, and how it comes about.
type Failure = (&'static str, fn(&mut Site));

/// Everything around the Envoy of the page.
struct Site {
    /// A checkout with a release in `dist`, and `/etc/envoy` beside it.
    dir: TempDir,
    mas: Mas,
    /// What clients of MAS with TLS reach.
    mas_with_tls: Envoy,
    homeserver: Homeserver,
    token: String,
    /// Replaced in the configuration of the page before it runs.
    edits: Vec<(String, String)>,
    /// The secret that Envoy is started with.
    secret: String,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("etc")).expect("a new directory");
        tls::make_certificate(dir.path(), &["matrix.example.org", "auth.example.org"]);
        release(&dir.path().join("dist"));
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let whoami = json!({"user_id": "@alice:example.org"}).to_string();
        homeserver.respond(WHOAMI, 200, whoami);
        let token = new_token("mat");
        mas.insert(&token, Session::access("alice", "PHONE"));
        let (certificate, to) = (certificate(dir.path()), mas.addr());
        let mas_with_tls = Envoy::builder()
            .bootstrap(move |config| {
                config["static_resources"] = json!({
                    "listeners": [listener("mas", tcp_proxy(), &certificate)],
                    "clusters": [bootstrap::static_cluster("mas", to)],
                });
            })
            .start()
            .await;
        Self {
            dir,
            mas,
            mas_with_tls,
            homeserver,
            token,
            edits: Vec::new(),
            secret: DEFAULT_SECRET.to_owned(),
        }
    }

    /// The configuration of the page, with a listener and a cluster of the reader's own around it.
    fn configuration(&self) -> Value {
        let page = read(PAGE);
        let found = blocks(&page).into_iter();
        let given: Vec<_> = found.filter(|block| block.language == "yaml").collect();
        let [given] = &*given else {
            panic!("the page has one configuration");
        };
        let mas = self.mas_with_tls.listener("mas").port();
        let ours = self.dir.path().join("fullchain.pem");
        let mut text = given.text.clone();
        for (from, to) in [
            (
                "address: auth.example.org, port_value: 443",
                &*format!("address: 127.0.0.1, port_value: {mas}"),
            ),
            (
                "/etc/ssl/certs/ca-certificates.crt",
                &ours.display().to_string(),
            ),
            ("/etc/envoy/", &self.in_place("/etc/envoy/")),
        ] {
            assert!(text.contains(from), "the page has no {from}");
            text = text.replace(from, to);
        }
        for (from, to) in &self.edits {
            assert!(text.contains(from), "the page has no {from}");
            text = text.replace(from, to);
        }
        let mut given = yaml(&text);
        let mut filters = given["http_filters"].take();
        let filters = filters.as_array_mut().expect("a list");
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }));
        let mut clusters = given["clusters"].take();
        let clusters = clusters.as_array_mut().expect("a list");
        clusters.push(bootstrap::static_cluster(
            "homeserver",
            self.homeserver.addr(),
        ));
        let manager = json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "matrix",
                "http_filters": filters,
                "route_config": {"virtual_hosts": [{
                    "name": "matrix",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "homeserver"}}],
                }]},
            },
        });
        json!({
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {
                "listeners": [listener(bootstrap::GATEWAY, manager, &certificate(self.dir.path()))],
                "clusters": clusters,
            },
        })
    }

    /// Writes the configuration to where the page has it, starts Envoy, and tells curl where each address leads to.
    async fn run(&self) -> Envoy {
        let config = self.configuration();
        let path = self.in_place("/etc/envoy/envoy.yaml");
        fs::write(path, config.to_string()).expect("a file of our own");
        let envoy = Envoy::builder()
            .env("MAS_SECRET", &self.secret)
            .bootstrap(move |whole| *whole = config)
            .start()
            .await;
        let lead = |from: &str, to| format!("connect-to = \"{from}:{to}\"\n");
        let text = format!(
            "cacert = {}/fullchain.pem\n{}{}",
            self.dir.path().display(),
            lead("matrix.example.org:443", envoy.addr()),
            lead("127.0.0.1:9901", envoy.admin()),
        );
        fs::write(self.dir.path().join(".curlrc"), text).expect("a file of our own");
        envoy
    }

    /// A text of the page, with this directory for the one that it names.
    fn in_place(&self, text: &str) -> String {
        text.replace(
            "/etc/envoy/",
            &format!("{}/etc/", self.dir.path().display()),
        )
    }

    /// What a command prints, or what it says when it fails.
    async fn output(&self, command: &str) -> Result<String, String> {
        let envoy = std::env::var_os("ENVOY")
            .map_or_else(|| repository().join(".venv/bin/envoy"), PathBuf::from);
        let function = format!("envoy() {{ '{}' \"$@\"; }}", envoy.display());
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("set -o pipefail; {function}; {command}")])
            .current_dir(self.dir.path())
            .env("CURL_HOME", self.dir.path())
            .env("MAS_SECRET", &self.secret)
            .env("TOKEN", &self.token);
        outcome(bash).await
    }

    /// Runs a command of the page. A metric may take a moment to come.
    async fn follow(&self, step: &Step) {
        let command = self.in_place(&step.command);
        let wanted = self.in_place(&step.output);
        let mut before = Ok(String::new());
        within_limit(&format!("{command} to print {wanted}"), async {
            loop {
                let output = self.output(&command).await;
                if output
                    .as_ref()
                    .is_ok_and(|output| wanted.is_empty() || *output == wanted)
                {
                    return;
                }
                if output != before {
                    eprintln!("{command}: {output:?}");
                    before = output;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    /// Asks who a token's user is, through TLS.
    async fn whoami(&self, token: &str) -> String {
        let url = format!("https://matrix.example.org{WHOAMI}");
        let command = format!(
            "curl -s -o body -w '%{{http_code}}' -H 'Authorization: Bearer {token}' {url} && echo && cat body"
        );
        self.output(&command).await.expect("an answer")
    }
}

/// What a release has, as `scripts/package` makes it.
fn release(dist: &Path) {
    const NAME: &str = "matrix-edge-auth.wasm";
    fs::create_dir(dist).expect("a new directory");
    fs::copy(module(), dist.join(NAME)).expect("a file of our own");
    let script = read("scripts/package");
    let line = script.lines().find(|line| line.ends_with(">SHA256SUMS)"));
    assert!(line.is_some_and(|line| line.contains("sha256 matrix-edge-auth.wasm ")));
    // Of the list of crates only the name counts here.
    fs::write(dist.join(format!("{NAME}.cdx.json")), "{}").expect("a file of our own");
    let made = Command::new("bash")
        .args([
            "-c",
            &format!("sha256sum {NAME} {NAME}.cdx.json >SHA256SUMS"),
        ])
        .current_dir(dist)
        .status();
    assert!(made.expect("bash starts").success());
}

/// The certificate of both names, as a listener takes it.
fn certificate(dir: &Path) -> Value {
    json!({
        "certificate_chain": {"filename": dir.join("fullchain.pem")},
        "private_key": {"filename": dir.join("privkey.pem")},
    })
}

fn listener(name: &str, filter: Value, certificate: &Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{
            "filters": [filter],
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [certificate]},
                },
            },
        }],
    })
}

fn tcp_proxy() -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "mas",
            "cluster": "mas",
        },
    })
}

#[tokio::test]
async fn the_readme_can_be_followed() {
    let site = Site::start().await;
    let page = read(PAGE);
    let found = blocks(&page);
    let mut commands = 0;
    let mut running = None;
    for block in &found {
        match &*block.language {
            // The picture of how requests flow.
            "" => {}
            "console" => {
                for step in steps(&block.text) {
                    site.follow(&step).await;
                    commands += 1;
                }
            }
            "yaml" => running = Some(site.run().await),
            other => panic!("nothing is done about {other}:\n{}", block.text),
        }
    }
    assert_eq!(commands, 5, "commands of the page");
    let envoy = running.expect("the page has a configuration");
    assert!(!envoy.log().contains("RuntimeError"), "see the log");
    // The label that the page gives the module's series is there from the start, at 0.
    let text = http::send(envoy.admin(), &Request::get("/stats/prometheus")).await;
    let series =
        "matrix_edge_auth_would_reject_answers_total{reason=\"not_active\",answer=\"2xx\"} 0";
    assert!(text.text().contains(series), "{series}");
}

/// The page says how to switch on: one word, and an Envoy that starts anew. It is the way back, too.
#[tokio::test]
async fn the_mode_of_the_readme_rejects_and_the_one_before_does_not() {
    let mut site = Site::start().await;
    let inactive = new_token("mat");
    install(&site);
    let shadow = site.run().await;
    assert!(site.whoami(&inactive).await.starts_with("200"));
    drop(shadow);
    assert!(read(PAGE).contains("Set `mode: enforce`, or `mode: shadow` again"));
    site.edits = vec![("mode: shadow".to_owned(), "mode: enforce".to_owned())];
    let _enforce = site.run().await;
    let reply = site.whoami(&inactive).await;
    assert!(
        reply.starts_with("401\n") && reply.contains("M_UNKNOWN_TOKEN"),
        "{reply}"
    );
    assert!(site.whoami(&site.token).await.starts_with("200"));
}

/// The module, where the page's configuration reads it.
fn install(site: &Site) {
    let to = site.in_place("/etc/envoy/matrix-edge-auth.wasm");
    fs::copy(module(), to).expect("a file of our own");
}

/// "Another `outcome` is a failure": each of those in the page, brought about by what the page says.
#[tokio::test]
async fn every_failure_shows_as_the_readme_says() {
    let failures: [Failure; 5] = [
        ("`undeliverable` (no such cluster", |site| {
            site.replace(
                "cluster: mas-introspection, authority",
                "cluster: elsewhere, authority",
            );
        }),
        ("`unreachable` (address or TLS)", |site| {
            site.replace("sni: auth.example.org", "sni: other.example.org");
            site.replace("exact: auth.example.org", "exact: other.example.org");
        }),
        ("`status` (secret or path)", |site| {
            site.secret = "another secret of the right form".replace(' ', "-");
        }),
        ("`status` (secret or path)", |site| {
            site.replace(
                "authority: auth.example.org,",
                "authority: auth.example.org, path: /elsewhere,",
            );
        }),
        ("`malformed` (not MAS)", |site| {
            site.mas.fault(Fault::html())
        }),
    ];
    let page = read(PAGE).replace('\n', " ");
    let mut site = Site::start().await;
    install(&site);
    for (says, prepare) in failures {
        assert!(page.contains(says), "the page does not say {says}");
        let outcome = says.split('`').nth(1).expect("a name");
        site.edits.clear();
        site.secret = DEFAULT_SECRET.to_owned();
        prepare(&mut site);
        let envoy = site.run().await;
        assert!(site.whoami(&site.token).await.starts_with("200"), "{says}");
        let series = format!("matrix_edge_auth_introspections_total{{outcome=\"{outcome}\"}} ");
        within_limit(says, async {
            loop {
                let stats = http::send(envoy.admin(), &Request::get("/stats/prometheus")).await;
                let count = stats
                    .text()
                    .lines()
                    .find_map(|line| line.strip_prefix(&series));
                if count.expect("the series is there from the start") != "0" {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
        let line = envoy.wait_for_log("no verdict on tokens").await;
        assert!(line.contains("no verdict on tokens from cluster"), "{line}");
    }
}

impl Site {
    fn replace(&mut self, from: &str, to: &str) {
        self.edits.push((from.to_owned(), to.to_owned()));
    }
}
