//! What `envoy/production/` gives up, and in which order, when its memory runs short: and that no client gets far by filling
//! it with heads and bodies of requests that do not end.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::mas::Session;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::sleep,
};

use super::{
    edge::{WHOAMI, new_token},
    http2::Http2,
    introspection_role::introspect,
    production::{MATRIX, Site},
    production_limits::{Unfinished, assert_refused, monitor, spawn},
};
use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{self, Connection, Request, within_limit},
};

/// The trigger of every overload action.
const HEAP: &str = "envoy.resource_monitors.fixed_heap";

const MIB: u64 = 1024 * 1024;

/// Sending is not for anyone, but a token of a foreign form is judged by the homeserver alone.
const SEND: &str = "/_matrix/client/v3/rooms/!a:b/send/m.x/1";
const FOREIGN: [(&str, &str); 1] = [("authorization", "Bearer x")];

/// The same, where a body may have MiBs.
const TO_DEVICE: &str = "/_matrix/client/v3/sendToDevice/m.x/1";

/// Requests under way.
const ACTIVE: &str = "http.gateway.downstream_rq_active";

/// A file that says how short memory is, from 0 to 1, in the place of the memory in use.
pub struct Pressure {
    path: PathBuf,
    _dir: TempDir,
}

impl Pressure {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pressure = Self {
            path: dir.path().join("pressure"),
            _dir: dir,
        };
        pressure.write("0");
        pressure
    }

    /// Triggers the actions by this file. All else about them is as shipped.
    pub fn trigger(&self, config: &mut Value) {
        let name = "envoy.resource_monitors.injected_resource";
        let heap = monitor(config, HEAP);
        heap["name"] = name.into();
        heap["typed_config"] = json!({
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
            "filename": self.path,
        });
        for kind in ["actions", "loadshed_points"] {
            let all = config["overload_manager"][kind].as_array_mut();
            for action in all.expect("a list") {
                assert_eq!(action["triggers"][0]["name"], HEAP);
                action["triggers"][0]["name"] = name.into();
            }
        }
    }

    fn write(&self, value: &str) {
        let next = self.path.with_extension("new");
        fs::write(&next, value).expect("a file of our own");
        fs::rename(next, &self.path).expect("a file of our own");
    }

    /// Waits until Envoy has seen this part of 100.
    pub async fn set(&self, envoy: &Envoy, percent: u64) {
        self.write(&format!("{}", percent as f64 / 100.0));
        let stat = "overload.envoy.resource_monitors.injected_resource.pressure";
        envoy.wait_for_stat(stat, |now| now == percent).await;
    }
}

/// Returns the shortest time that a silent request is given.
fn shortest_silence(config: &mut Value) -> &mut Value {
    let actions = config["overload_manager"]["actions"].as_array_mut();
    let factors = actions
        .expect("a list")
        .iter_mut()
        .find(|action| action["name"] == "envoy.overload_actions.reduce_timeouts")
        .map(|action| &mut action["typed_config"]["timer_scale_factors"]);
    let factors = factors.and_then(Value::as_array_mut).expect("a list");
    let silence = factors
        .iter_mut()
        .find(|factor| factor["timer"] == "HTTP_DOWNSTREAM_STREAM_IDLE");
    &mut silence.expect("requests are among them")["min_timeout"]
}

/// Lets clients in without TLS.
fn without_tls(config: &mut Value) {
    let chain = &mut bootstrap::listener(config)["filter_chains"][0];
    for key in ["transport_socket", "transport_socket_connect_timeout"] {
        assert!(!chain[key].take().is_null(), "{key}");
    }
}

/// A client that asks again and again on one connection.
struct Live {
    served: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Live {
    async fn start(gateway: SocketAddr, request: Request) -> Self {
        let mut connection = Connection::open(gateway).await;
        let (served, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, seen) = (Arc::clone(&served), Arc::clone(&is_over));
        let task = tokio::spawn(async move {
            while !seen.load(Ordering::Relaxed) {
                let response = connection.request(&request).await;
                assert_eq!(response.status, 200, "{response:?}");
                count.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self {
            served,
            is_over,
            task,
        }
    }

    /// Ends it, and returns how often it was served: always.
    async fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("every request is served");
        self.served.load(Ordering::Relaxed)
    }
}

/// The requests that hold most go first, then new connections, then new requests; those under way and the internal
/// listeners go on.
#[tokio::test]
async fn memory_is_given_up_in_the_order_of_what_it_costs() {
    let pressure = Arc::new(Pressure::new());
    let trigger = Arc::clone(&pressure);
    let site = Site::start_with(2, move |config, _| trigger.trigger(config)).await;
    let gateway = site.tls.listener("gateway");
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let mut connected = Connection::open(gateway).await;
    assert_eq!(connected.request(&whoami).await.status, 200);

    // One that holds much, and one that does not.
    let mut http2 = Http2::open(site.tls.listener("gateway over HTTP/2")).await;
    http2
        .begin_post(SEND, &FOREIGN, &vec![b'a'; 512 * 1024])
        .await;
    let small = Unfinished::send(gateway, [MATRIX, "PUT", SEND], "x").await;
    site.envoy.wait_for_stat(ACTIVE, |active| active == 2).await;
    pressure.set(&site.envoy, 74).await;
    assert_eq!(site.envoy.stat(ACTIVE).await, 2);
    pressure.set(&site.envoy, 89).await;
    site.envoy.wait_for_stat(ACTIVE, |active| active == 1).await;
    assert_eq!(site.send("gateway", &whoami).await.status, 200);
    assert_eq!(small.finish().await.status, 200);

    // Who is connected is served.
    pressure.set(&site.envoy, 91).await;
    assert_refused(gateway, &whoami).await;
    assert_refused(site.tls.listener("federation"), &whoami).await;
    assert_eq!(connected.request(&whoami).await.status, 200);

    // What is under way goes on, and so do Synapse and MAS.
    let token = new_token("mat");
    site.mas.insert(&token, Session::access("bob", "PHONE"));
    let hold = site.mas.hold();
    pressure.set(&site.envoy, 0).await;
    let under_way = spawn(gateway, Request::get(WHOAMI).bearer(&token));
    site.mas.wait_for_calls(2).await;
    pressure.set(&site.envoy, 100).await;
    let active = "overload.envoy.overload_actions.stop_accepting_requests.active";
    site.envoy.wait_for_stat(active, |active| active == 1).await;
    assert_eq!(connected.request(&whoami).await.status, 503);
    hold.release();
    assert_eq!(under_way.await.expect("no panic").status, 200);
    let internal = |name| site.envoy.listener(name);
    let answer = http::send(internal("introspection"), &introspect(&site.token)).await;
    assert_eq!(answer.status, 200);
    for (listener, path) in [
        ("provisioning", "/health"),
        ("operations", "/healthz"),
        ("operations", "/stats/prometheus"),
    ] {
        let response = http::send(internal(listener), &Request::get(path)).await;
        assert_eq!(response.status, 200, "{listener}{path}");
    }

    pressure.set(&site.envoy, 0).await;
    site.envoy.wait_for_stat(active, |active| active == 0).await;
    assert_eq!(site.send("gateway", &whoami).await.status, 200);
}

/// A request that does not end is given less time then. A /sync of the usual 30 s is not cut.
#[tokio::test]
async fn silent_requests_end_sooner_when_memory_runs_short() {
    let pressure = Arc::new(Pressure::new());
    let trigger = Arc::clone(&pressure);
    let site = Site::start_with(1, move |config, _| {
        trigger.trigger(config);
        let silence = shortest_silence(config);
        let seconds = silence.as_str().and_then(|text| text.strip_suffix('s'));
        let seconds: u64 = seconds.expect("seconds").parse().expect("a number");
        assert!((31..=60).contains(&seconds), "{seconds}");
        *silence = "0.1s".into();
    })
    .await;
    let gateway = site.tls.listener("gateway");
    let silent = Unfinished::send(gateway, [MATRIX, "PUT", SEND], "x").await;
    site.envoy.wait_for_stat(ACTIVE, |active| active == 1).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(site.envoy.stat(ACTIVE).await, 1);
    pressure.set(&site.envoy, 86).await;
    assert_eq!(silent.response().await.status, 408);
}

/// What may hold MiBs ends in time, also if a byte comes now and then, which no idle timeout ends.
#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_not_held_for_ever() {
    let site = Site::start_with(1, |config, _| {
        let routes = &mut bootstrap::http_manager(config)["route_config"];
        let text = routes.to_string();
        assert_eq!(text.matches("\"300s\"").count(), 5);
        *routes = serde_json::from_str(&text.replace("\"300s\"", "\"0.5s\"")).expect("JSON");
    })
    .await;
    let mut http2 = Http2::open(site.tls.listener("gateway over HTTP/2")).await;
    let stream = http2.begin_post(TO_DEVICE, &FOREIGN, b"1").await;
    site.envoy.wait_for_stat(ACTIVE, |active| active == 1).await;
    let reached = "http.gateway.downstream_rq_max_duration_reached";
    within_limit("its end", async {
        while site.envoy.stat(reached).await == 0 {
            http2.send(stream, b"1").await;
        }
    })
    .await;
    site.envoy.wait_for_stat(ACTIVE, |active| active == 0).await;
}

/// The monitor that is shipped sees the memory in use.
#[tokio::test]
async fn the_limit_of_memory_is_looked_at() {
    let site = Site::start_with(2, |config, _| {
        monitor(config, HEAP)["typed_config"]["max_heap_size_bytes"] = 1.into();
    })
    .await;
    let active = "overload.envoy.overload_actions.stop_accepting_requests.active";
    site.envoy.wait_for_stat(active, |active| active == 1).await;
    assert_refused(site.tls.listener("gateway"), &Request::get(WHOAMI)).await;
    // What a page tells to watch.
    let metric = "envoy_overload_envoy_resource_monitors_fixed_heap_pressure";
    let pressure = site.envoy.stats_so_far().await.find(metric, &[]);
    assert!(pressure.is_some_and(|percent| percent >= 100.0));
}

/// So many requests at once Envoy takes of one connection.
const STREAMS: u64 = 32;

/// Fills a connection with heads of nearly 16 KiB, of requests that do not end, and with more of them than Envoy takes.
async fn fill_with_heads(gateway: SocketAddr) -> io::Result<Http2> {
    let mut http2 = Http2::try_open(gateway).await?;
    fill(&mut http2).await?;
    Ok(http2)
}

async fn fill(http2: &mut Http2) -> io::Result<()> {
    let path = "/_matrix/client/v3/login";
    http2.begin_large_heads(path, 100, 4).await
}

/// What an Envoy with little memory may have.
const HEAP_BYTES: u64 = 384 * MIB;

/// Starts an Envoy with little memory, which ends silent requests after 5 s when it runs short of it.
async fn start_with_little_memory() -> Site {
    Site::start_with(2, |config, _| {
        without_tls(config);
        monitor(config, HEAP)["typed_config"]["max_heap_size_bytes"] = HEAP_BYTES.into();
        *shortest_silence(config) = "5s".into();
    })
    .await
}

/// Waits until Envoy has looked at the memory that it uses now.
async fn wait_for_a_look(envoy: &Envoy) {
    let pressure = "overload.envoy.resource_monitors.fixed_heap.pressure";
    within_limit("Envoy to look at its memory", async {
        while envoy.stat(pressure).await + 1 < 100 * envoy.heap_bytes().await / HEAP_BYTES {}
    })
    .await;
}

/// Header compression makes a MiB of some KiB: no more for each connection, and the others are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_full_of_large_heads_costs_some_mib() {
    const CONNECTIONS: u64 = 100;
    let site = Site::start_with(2, |config, _| without_tls(config)).await;
    let gateway = site.envoy.listener("gateway");
    let live = Live::start(gateway, Request::get(WHOAMI).bearer(&site.token)).await;
    let before = site.envoy.resident_bytes();
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        attackers.push(fill_with_heads(gateway).await.expect("a place"));
    }
    let sent: u64 = attackers.iter().map(Http2::sent).sum();
    let received = "http.gateway.downstream_cx_rx_bytes_total";
    site.envoy
        .wait_for_stat(received, |received| received >= sent)
        .await;
    let grown = site.envoy.resident_bytes().saturating_sub(before);
    let under_way = site.envoy.stat(ACTIVE).await;
    println!(
        "{CONNECTIONS} connections, {} KiB sent: {} MiB more, {} requests under way; a live session was served {} times",
        sent / 1024,
        grown / MIB,
        under_way,
        live.end().await
    );
    assert!(grown < CONNECTIONS * 3 * MIB / 2, "{} MiB", grown / MIB);
}

/// As many such connections as Envoy takes, each after it has looked at its memory: who is connected is served all the
/// time, and new clients are again once the silent requests have ended, though the attackers stay.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_fill_the_memory_with_heads_keep_nobody_off_the_air() {
    const BATCH: usize = 8;
    let site = start_with_little_memory().await;
    let gateway = site.envoy.listener("gateway");
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let live = Live::start(gateway, whoami.clone()).await;
    let refused = "overload.envoy.load_shed_points.tcp_listener_accept.shed_load_count";
    let mut attackers = Vec::new();
    while site.envoy.stat(refused).await == 0 {
        for _ in 0..BATCH {
            if let Ok(attacker) = fill_with_heads(gateway).await {
                attackers.push(attacker);
            }
        }
        // Envoy keeps step: what lies in its sockets is not what is measured.
        let all = STREAMS * attackers.len() as u64;
        within_limit("Envoy to take or refuse them", async {
            let total = "http.gateway.downstream_rq_total";
            while site.envoy.stat(refused).await == 0 && site.envoy.stat(total).await < all {}
        })
        .await;
        wait_for_a_look(&site.envoy).await;
        assert!(attackers.len() < 4_000, "memory has an end");
    }
    println!(
        "new connections are refused after {}, with {} requests under way; a live session was served {} times so far",
        attackers.len(),
        site.envoy.stat(ACTIVE).await,
        live.served.load(Ordering::Relaxed)
    );
    within_limit("a place for a new client", async {
        while http::try_send(gateway, &whoami).await.is_none() {}
    })
    .await;
    let served = live.end().await;
    assert!(served > 10, "{served} times");
}

/// Who fills the memory between two looks of Envoy's gets past the order: everybody is refused then, and whoever is
/// connected is served again once the silent requests have ended, though the attackers stay.
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_filled_at_once_is_free_again_when_silent_requests_have_ended() {
    const CONNECTIONS: usize = 400;
    let site = start_with_little_memory().await;
    let gateway = site.envoy.listener("gateway");
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let mut connected = Connection::open(gateway).await;
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        attackers.push(Http2::open(gateway).await);
    }
    for attacker in &mut attackers {
        fill(attacker).await.expect("a place");
    }
    let mut refused = 0;
    within_limit("Envoy to refuse everybody", async {
        while connected.request(&whoami).await.status == 200 {}
    })
    .await;
    within_limit("Envoy to serve whoever is connected", async {
        while connected.request(&whoami).await.status == 503 {
            refused += 1;
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(connected.request(&whoami).await.status, 200);
    println!("{CONNECTIONS} connections at once: a live session was refused {refused} times more");
}

/// More requests that do not end than their cluster has places: they take none, and live sessions go on sending.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_end_leave_room_for_live_sessions() {
    const CONNECTIONS: u64 = 80;
    let site = Site::start_with(2, |config, _| without_tls(config)).await;
    let gateway = site.envoy.listener("gateway");
    let send = Request::new("PUT", SEND).bearer(&site.token).body("{}");
    let live = Live::start(gateway, send).await;
    let before = site.envoy.resident_bytes();
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut attacker = Http2::open(gateway).await;
        for _ in 0..STREAMS {
            attacker.request(SEND, &FOREIGN, false).await;
        }
        attackers.push(attacker);
    }
    let all = STREAMS * CONNECTIONS;
    site.envoy
        .wait_for_stat(ACTIVE, |active| active >= all)
        .await;
    let grown = site.envoy.resident_bytes().saturating_sub(before);
    let before = live.served.load(Ordering::Relaxed);
    within_limit("live sessions to be served", async {
        while live.served.load(Ordering::Relaxed) < before + 20 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    println!(
        "{all} requests on {CONNECTIONS} connections: {} MiB more; a live session was served {} times",
        grown / MIB,
        live.end().await
    );
    let active = "cluster.synapse-event-creator.upstream_rq_active";
    assert_eq!(site.envoy.stat(active).await, 0);
}

/// Sends a file of a MiB to each request.
async fn serve_files(listener: TcpListener) {
    const FILE: usize = MIB as usize;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FILE}\r\n\r\n");
    let answer = Arc::new([head.as_bytes(), &[b'x'; FILE]].concat());
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut piece = [0; 4_096];
            // Envoy sends no second request before the first is answered.
            while stream.read(&mut piece).await.is_ok_and(|length| length > 0) {
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Of answers that nobody reads Envoy holds little, and leaves the rest where it is.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_wait_at_the_homeserver() {
    const CONNECTIONS: u64 = 10;
    const READ_AHEAD: u64 = 128 * 1024;
    let files = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = files.local_addr().expect("a port");
    tokio::spawn(serve_files(files));
    let site = Site::start_with(2, move |config, _| {
        without_tls(config);
        let media = bootstrap::clusters(config)
            .iter_mut()
            .find(|cluster| cluster["name"] == "synapse-media");
        bootstrap::move_cluster(media.expect("it has one"), addr);
    })
    .await;
    let gateway = site.envoy.listener("gateway");
    let live = Live::start(gateway, Request::get(WHOAMI).bearer(&site.token)).await;
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut attacker = Http2::unread(gateway).await;
        for _ in 0..STREAMS {
            let path = "/_matrix/media/v3/download/a/b";
            attacker.request(path, &[], true).await;
        }
        attackers.push(attacker);
    }
    let all = CONNECTIONS * STREAMS;
    let received = "cluster.synapse-media.upstream_cx_rx_bytes_total";
    let has_begun = |bytes| bytes >= all * 1_024;
    site.envoy.wait_for_stat(received, has_begun).await;
    // Until no more comes while a live session is served a hundred times.
    let mut seen = (0, 0);
    loop {
        let served = live.served.load(Ordering::Relaxed);
        let bytes = site.envoy.stat(received).await;
        assert!(
            bytes <= all * READ_AHEAD,
            "{} KiB an answer",
            bytes / all / 1_024
        );
        if bytes != seen.0 {
            seen = (bytes, served);
        } else if served >= seen.1 + 100 {
            break;
        }
    }
    println!(
        "{} KiB of each answer were read; a live session was served {} times",
        seen.0 / all / 1_024,
        live.end().await
    );
}

/// Held bodies cost as much as was sent of them. Those that hold most end before they fill the memory.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_fill_the_memory_end_the_largest_first() {
    const BODY: usize = 4 << 20;
    let site = Site::start_with(2, |config, _| {
        without_tls(config);
        monitor(config, HEAP)["typed_config"]["max_heap_size_bytes"] = HEAP_BYTES.into();
    })
    .await;
    let gateway = site.envoy.listener("gateway");
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let live = Live::start(gateway, whoami).await;
    let body = vec![b'a'; BODY];
    let (mut attackers, mut sent) = (Vec::new(), 0);
    let attack = async {
        while sent < 640 * MIB {
            let mut attacker = Http2::open(gateway).await;
            for _ in 0..8 {
                // Envoy closes a connection, too, that goes on with the body of a request which has been reset.
                let begun = attacker.try_begin_post(TO_DEVICE, &FOREIGN, &body).await;
                if begun.is_err() {
                    break;
                }
            }
            sent += attacker.sent();
            attackers.push(attacker);
        }
    };
    within_limit("the bodies to go out", attack).await;
    let reset = "envoy.overload_actions.reset_high_memory_stream.count";
    println!(
        "{} MiB sent: {} requests were reset, {} are under way; a live session was served {} times",
        sent / MIB,
        site.envoy.stat(reset).await,
        site.envoy.stat(ACTIVE).await,
        live.end().await
    );
    assert!(sent > HEAP_BYTES);
    assert!(site.envoy.stat(reset).await > 0);
}
