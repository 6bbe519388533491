//! The whole system under load: the built module in a real Envoy, on Linux.
//!
//! What is measured, and how, stands in `docs/internals/benchmarks.md`. Everything that is compared is measured side
//! by side in one run, because machines differ and are noisy; CPU time of the Envoy process is steadier
//! than any latency.
//!
//! `make bench` runs all parts; `make bench PART="hits growth attack"` picks some.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures real time; the core never reads a clock"
)]

#[path = "system/alternatives.rs"]
mod alternatives;
#[path = "system/attack.rs"]
mod attack;
#[path = "system/client.rs"]
mod client;
#[path = "system/control.rs"]
mod control;
#[path = "system/flood.rs"]
mod flood;
#[path = "system/half_load.rs"]
mod half_load;
#[path = "system/hits.rs"]
mod hits;
#[path = "system/http2.rs"]
mod http2;
#[path = "system/instructions.rs"]
mod instructions;
#[path = "system/latency.rs"]
mod latency;
#[path = "system/overload.rs"]
mod overload;
#[path = "system/plots.rs"]
mod plots;
#[path = "system/probe.rs"]
mod probe;
#[path = "system/process.rs"]
mod process;
#[path = "system/service.rs"]
mod service;
#[path = "system/start.rs"]
mod start;
#[path = "../tests/support"]
#[allow(
    dead_code,
    reason = "shared by several programs, each of which uses a part"
)]
mod support {
    pub mod envoy;
    pub mod http;
    pub mod product_time;
    pub mod synapse;
}
#[path = "system/upstream.rs"]
mod upstream;

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Instant};

use serde_json::{Value, json};

use self::{
    control::Refusal,
    process::Process,
    support::envoy::{Builder, Envoy, bootstrap},
    upstream::Mas,
};

/// In this order. `contention` is a program of its own.
const PARTS: [&str; 10] = [
    "instructions",
    "start",
    "hits",
    "cold",
    "growth",
    "half-load",
    "latency",
    "alternatives",
    "homeserver",
    "attack",
];

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut passed = true;
    on_this_thread(async {
        let mas = Mas::start();
        for part in PARTS {
            if !chosen.is_empty() && !chosen.iter().any(|name| name == part) {
                continue;
            }
            let begun = Instant::now();
            match part {
                "instructions" => passed = instructions::count(),
                "start" => start::beside_an_empty_filter(&mas).await,
                "hits" => hits::by_kind(&mas).await,
                "cold" => hits::cold(&mas).await,
                "growth" => hits::growth(&mas).await,
                "half-load" => half_load::beside_no_filter(&mas).await,
                "latency" => attack::side_by_side(&mas).await,
                "alternatives" => alternatives::all().await,
                "homeserver" => alternatives::homeserver_alone().await,
                "attack" => {
                    attack::unknown_tokens(&mas).await;
                    attack::impossible_tokens(&mas).await;
                    overload::slow_mas().await;
                }
                other => panic!("an unknown part: {other}"),
            }
            println!("\n{part}: took {} s", begun.elapsed().as_secs());
        }
    });
    plots::draw();
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A running Envoy that answers what passes with 200 itself, so that no homeserver is measured.
struct Gateway {
    envoy: Envoy,
    process: Process,
}

impl Gateway {
    /// `settings` as in [`plugin`].
    async fn start(mas: &Mas, workers: u32, settings: Value) -> Self {
        Self::of(
            Envoy::builder()
                .concurrency(workers)
                .plugin(plugin(&settings))
                .mas(mas.addr()),
        )
        .await
    }

    /// Another module in the place of the module, with the same plugin.
    async fn with_other_module(mas: &Mas, module: &Path) -> Self {
        let builder = Envoy::builder().plugin(plugin(&json!({}))).mas(mas.addr());
        Self::of(builder.bootstrap(replace_module(module))).await
    }

    async fn without_module() -> Self {
        Self::of(Envoy::builder()).await
    }

    async fn of(builder: Builder) -> Self {
        let envoy = answering(builder).start().await;
        let process = Process::of(&envoy);
        Self { envoy, process }
    }

    fn addr(&self) -> SocketAddr {
        self.envoy.addr()
    }

    /// Resident, and allocated by Envoy's own count, in bytes.
    async fn memory(&self) -> (u64, u64) {
        (
            self.process.resident(),
            process::allocated(&self.envoy).await,
        )
    }

    /// Active verdicts so far: from the worker's cache, from the shared cache, from MAS.
    async fn sources(&self) -> [u64; 3] {
        let stats = self.envoy.stats().await;
        ["local", "shared", "mas"].map(|source| {
            let labels = [("verdict", "active"), ("source", source)];
            stats.sum("matrix_edge_auth_requests_total", &labels) as u64
        })
    }

    /// One of the module's metrics, summed over the samples with these labels.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let name = format!("matrix_edge_auth_{name}");
        self.envoy.stats().await.sum(&name, labels) as u64
    }
}

/// The module's configuration. `settings` are sections of it, and take the place of what stands here.
fn plugin(settings: &Value) -> Value {
    let mut plugin = json!({
        "server_name": "example.org",
        "introspection": {
            "cluster": "mas",
            "authority": "auth.example.org",
            "credential": {"bearer": {"value": "bench"}},
        },
        // Long enough that no session ends during a measurement.
        "cache": {"ttl": "3600s"},
    });
    for (name, more) in settings.as_object().expect("sections") {
        match (&mut plugin[name], more) {
            (Value::Object(section), Value::Object(more)) => section.extend(more.clone()),
            (section, more) => *section = more.clone(),
        }
    }
    plugin
}

/// Lets an Envoy answer what passes with 200 itself.
fn answering(builder: Builder) -> Builder {
    builder.bootstrap(|config| {
        // So that two Envoys share out their connections in the same way.
        bootstrap::listener(config)["connection_balance_config"] = json!({"exact_balance": {}});
        let manager = bootstrap::http_manager(config);
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        let pass = routes.as_array_mut().and_then(|routes| routes.last_mut());
        *pass.expect("a route") =
            json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}});
    })
}

/// Puts another module in the place of the module. It may call nothing that the list does not name, which is enough.
fn replace_module(other: &Path) -> impl FnOnce(&mut Value) + Send + use<> {
    let other = other.to_owned();
    move |config| {
        let filter = &mut bootstrap::http_manager(config)["http_filters"][0];
        filter["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = json!(other);
    }
}

/// Access tokens with the right checksum.
fn tokens(name: &str, number: usize) -> Vec<String> {
    (0..number)
        .map(|n| stand_in::mas::token("mat", &format!("{name} {n}")))
        .collect()
}

/// The same token with a wrong checksum.
fn damaged(token: &str) -> String {
    let (rest, last) = token.split_at(token.len() - 1);
    format!("{rest}{}", if last == "0" { '1' } else { '0' })
}

/// What the bench wants to know of a response.
struct Response {
    status: u16,
    has_retry_after: bool,
    /// The server closes the connection after it.
    is_last: bool,
    length: usize,
}

/// The first response in `received`; `None` if it is not whole.
fn response(received: &[u8]) -> Option<Response> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(received).expect("a response head") else {
        return None;
    };
    let length = start + content_length(head.headers);
    let value = |name: &str| {
        let mut headers = head.headers.iter();
        let header = headers.find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    let closes = |value: &[u8]| value.eq_ignore_ascii_case(b"close");
    (received.len() >= length).then_some(Response {
        status: head.code.expect("a parsed head has a status"),
        has_retry_after: value("retry-after").is_some(),
        is_last: value("connection").is_some_and(closes),
        length,
    })
}

fn content_length(headers: &[httparse::Header<'_>]) -> usize {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |header| {
            let text = std::str::from_utf8(header.value).expect("a number");
            text.parse().expect("a number")
        })
}

fn on_this_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work);
}

/// Where a table is cut out of the output, progress is not in it.
fn progress(what: &str) {
    eprintln!("  ... {what}");
}

/// How much is measured: in `quick` measure if a few minutes are to be enough for all parts, which widens the spread.
fn extent<T>(full: T, quick: T) -> T {
    if setting("QUICK", 0) > 0 { quick } else { full }
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Says whether a goal is reached.
fn goal(what: &str, is: f64, at_most: f64) {
    let outcome = if is <= at_most { "reached" } else { "MISSED" };
    println!("\ngoal {outcome}: {what}: {is:.3}");
}
