//! What `envoy/production/` does when a limit is reached, a certificate is renewed or a secret is replaced. The limits are
//! lowered so that a test can reach them; all else is as shipped.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};
use stand_in::mas::Session;
use tokio::task::JoinHandle;

use super::{
    edge::{WHOAMI, assert_no_verdict, assert_too_large, new_token},
    introspection_role::introspect,
    production::{AUTH, MATRIX, Row, Site, row_of, rows},
    tls,
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request, Response, within_limit},
};

const SYNC: &str = "/_matrix/client/v3/sync";

pub fn monitor<'a>(config: &'a mut Value, name: &str) -> &'a mut Value {
    let monitors = &mut config["overload_manager"]["resource_monitors"];
    let monitors = monitors
        .as_array_mut()
        .expect("resource_monitors is a list");
    let found = monitors.iter_mut().find(|monitor| monitor["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {name}"))
}

fn set_thresholds(cluster: &mut Value, limit: u32) {
    let thresholds = &mut cluster["circuit_breakers"]["thresholds"][0];
    for key in ["max_connections", "max_requests", "max_pending_requests"] {
        assert!(
            !thresholds[key].is_null(),
            "{} has no {key}",
            cluster["name"]
        );
        thresholds[key] = limit.into();
    }
}

/// Checks that the next connection is closed without a response.
pub async fn assert_refused(addr: SocketAddr, request: &Request) {
    let response = http::try_send(addr, request).await;
    assert!(response.is_none(), "{response:?}");
}

/// Who comes when all connections of a listener are taken is sent away; who is connected is served, and so are the other
/// listeners.
#[tokio::test]
async fn connections_over_the_limit_are_refused_and_the_others_are_served() {
    const LIMIT: usize = 3;
    let site = Site::start_with(2, |config, _| {
        let limits = &mut config["layered_runtime"]["layers"][0]["static_layer"];
        for listener in ["gateway", "federation"] {
            let key = format!("envoy.resource_limits.listener.{listener}.connection_limit");
            assert!(
                limits[&key].as_u64().is_some(),
                "{key} is no longer in the folder"
            );
            limits[&key] = LIMIT.into();
        }
    })
    .await;
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let version = Request::get("/_matrix/federation/v1/version");
    let [gateway, federation] = ["gateway", "federation"].map(|way| site.tls.listener(way));
    for (full, request) in [(gateway, &whoami), (federation, &version)] {
        let mut connected = Vec::new();
        for _ in 0..LIMIT {
            let mut connection = Connection::open(full).await;
            assert_eq!(connection.request(request).await.status, 200);
            connected.push(connection);
        }
        // More often than there are places: none is given away by what comes and goes.
        for _ in 0..2 * LIMIT {
            assert_refused(full, request).await;
            for (listener, request) in [
                ("introspection", &introspect(&site.token)),
                ("provisioning", &Request::get("/health")),
                ("operations", &Request::get("/healthz")),
            ] {
                let response = http::send(site.envoy.listener(listener), request).await;
                assert_eq!(response.status, 200, "{listener}");
            }
        }
        for connection in &mut connected {
            assert_eq!(connection.request(request).await.status, 200);
        }
        for (other, request) in [(gateway, &whoami), (federation, &version)] {
            if other != full {
                assert_eq!(http::send(other, request).await.status, 200);
            }
        }
        connected.pop();
        within_limit("a place", async {
            while http::try_send(full, request).await.is_none() {}
        })
        .await;
    }
}

/// The limit of all listeners together counts what opens and closes. The internal ones bypass it, and do not move it.
#[tokio::test]
async fn the_limit_of_all_listeners_stays_where_it_is() {
    const LIMIT: usize = 4;
    let site = Site::start_with(2, |config, _| {
        let name = "envoy.resource_monitors.global_downstream_max_connections";
        let limit = &mut monitor(config, name)["typed_config"]["max_active_downstream_connections"];
        let shipped = limit.as_u64().expect("a number");
        let limits = &config["layered_runtime"]["layers"][0]["static_layer"];
        let of_listeners = ["gateway", "federation"].map(|listener| {
            let key = format!("envoy.resource_limits.listener.{listener}.connection_limit");
            limits[key].as_u64().expect("a number")
        });
        assert!(shipped > of_listeners.iter().sum());
        let limit = &mut monitor(config, name)["typed_config"]["max_active_downstream_connections"];
        *limit = LIMIT.into();
    })
    .await;
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    let gateway = site.tls.listener("gateway");
    for _ in 0..2 * LIMIT {
        let probe = http::send(site.envoy.listener("operations"), &Request::get("/healthz")).await;
        assert_eq!(probe.status, 200);
    }
    let mut connected = Vec::new();
    for _ in 0..LIMIT {
        let mut connection = Connection::open(gateway).await;
        assert_eq!(connection.request(&whoami).await.status, 200);
        connected.push(connection);
    }
    for _ in 0..2 * LIMIT {
        assert_refused(gateway, &whoami).await;
        let probe = http::send(site.envoy.listener("operations"), &Request::get("/healthz")).await;
        assert_eq!(probe.status, 200);
    }
    for connection in &mut connected {
        assert_eq!(connection.request(&whoami).await.status, 200);
    }
}

pub fn spawn(addr: SocketAddr, request: Request) -> JoinHandle<Response> {
    tokio::spawn(async move { http::send(addr, &request).await })
}

/// MAS hangs and no more calls to it may be made: a new token gets 503 at once, one that was active goes on, and clients
/// reach MAS as before.
#[tokio::test]
async fn a_full_breaker_of_the_modules_calls_stops_new_tokens_only() {
    let site = Site::start_with(1, |config, _| {
        set_thresholds(bootstrap::cluster(config, "mas-introspection"), 1);
        let manager = bootstrap::http_manager(config);
        let filters = bootstrap::http_filters(manager).iter_mut();
        for filter in filters.filter(|filter| filter["name"] == "envoy.filters.http.wasm") {
            let own = &mut filter["typed_config"]["config"]["configuration"]["value"];
            own["cache"]["ttl"] = "1s".into();
        }
    })
    .await;
    let gateway = site.tls.listener("gateway");
    let new = || {
        let token = new_token("mat");
        site.mas.insert(&token, Session::access("bob", "PHONE"));
        Request::get(WHOAMI).bearer(&token)
    };
    let known = Request::get(WHOAMI).bearer(&site.token);
    assert_eq!(http::send(gateway, &known).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let hold = site.mas.hold();
    // One on the only connection, one that waits for it.
    let first = spawn(gateway, new());
    site.mas.wait_for_calls(2).await;
    let second = spawn(gateway, new());
    let pending = "cluster.mas-introspection.upstream_rq_pending_active";
    site.envoy
        .wait_for_stat(pending, |pending| pending == 1)
        .await;
    let third = new();
    assert_no_verdict(&http::send(gateway, &third).await);
    assert_eq!(http::send(gateway, &known).await.status, 200);
    let stats = site.envoy.stats().await;
    let stale = stats.sum("matrix_edge_auth_requests_total", &[("source", "stale")]);
    assert!(stale >= 1.0, "{}", stats.of("matrix_edge_auth_requests"));
    let overflow = "cluster.mas-introspection.upstream_rq_pending_overflow";
    assert!(site.envoy.stat(overflow).await >= 1);
    let of_clients = Request::get("/authorize").header("Host", AUTH);
    assert_eq!(http::send(gateway, &of_clients).await.status, 200);
    hold.release();
    for held in [first, second] {
        assert_eq!(held.await.expect("no panic").status, 200);
    }
    assert_eq!(http::send(gateway, &third).await.status, 200);
}

/// A request whose last bytes have not come: the server waits for them.
pub struct Unfinished(Connection);

impl Unfinished {
    pub async fn send(addr: SocketAddr, [host, method, target]: [&str; 3], token: &str) -> Self {
        let mut connection = Connection::open(addr).await;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n1"
        );
        connection.send(head.as_bytes()).await;
        Self(connection)
    }

    /// Returns the response of a server that did not wait.
    pub async fn response(mut self) -> Response {
        self.0.response(false).await
    }

    pub async fn finish(mut self) -> Response {
        self.0.send(b"2").await;
        self.0.response(false).await
    }
}

/// Each cluster has a breaker of its own: a server that hangs takes none of the others with it.
#[tokio::test]
async fn a_full_breaker_of_a_cluster_leaves_the_others_alone() {
    let site = Site::start_with(1, |config, _| {
        // Requests that have not ended are to take places.
        let manager = bootstrap::http_manager(config);
        for filter in bootstrap::http_filters(manager) {
            let name = filter["name"].as_str().unwrap_or_default();
            if ["whole_requests", "envoy.filters.http.buffer"].contains(&name) {
                filter["typed_config"] = json!({
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                });
            }
        }
        for cluster in bootstrap::clusters(config) {
            // Envoy's own interface is asked by probes and Prometheus only.
            if !["admin", "mas-introspection"].contains(&cluster["name"].as_str().unwrap_or("")) {
                set_thresholds(cluster, 1);
            }
        }
    })
    .await;
    let row = |cluster: &str| {
        let row = row_of(cluster);
        row.map(|[way, host, method, target]| (site.tls.listener(way), [host, method, target]))
    };
    let mut rows: Vec<(&str, SocketAddr, [&str; 3])> = Vec::new();
    for cluster in site.upstreams.keys() {
        match (row(cluster), cluster.as_str()) {
            (Some((addr, row)), _) => rows.push((cluster, addr, row)),
            (None, "synapse-mas") => {
                let row = ["mas", "GET", "/_synapse/mas/query_user?localpart=a"];
                rows.push((cluster, site.envoy.listener("provisioning"), row));
            }
            (None, "mas-for-synapse") => {
                let row = ["mas", "GET", "/.well-known/openid-configuration"];
                rows.push((cluster, site.envoy.listener("introspection"), row));
            }
            (None, other) => assert_eq!(other, "admin"),
        }
    }
    let whole = |[host, method, target]: [&str; 3]| {
        let request = Request::new(method, target).header("Host", host);
        request.bearer(&site.token)
    };
    let known = Request::get(WHOAMI).bearer(&site.token);
    assert_eq!(site.send("gateway", &known).await.status, 200);
    for (full, addr, row) in &rows {
        let stat = |name: &str| format!("cluster.{full}.{name}");
        let first = Unfinished::send(*addr, *row, &site.token).await;
        let active = stat("upstream_rq_active");
        site.envoy
            .wait_for_stat(&active, |active| active == 1)
            .await;
        let second = Unfinished::send(*addr, *row, &site.token).await;
        let pending = stat("upstream_rq_pending_active");
        site.envoy
            .wait_for_stat(&pending, |pending| pending == 1)
            .await;
        let overflow = stat("upstream_rq_pending_overflow");
        assert_eq!(site.envoy.stat(&overflow).await, 0, "{full}");
        assert_eq!(http::send(*addr, &whole(*row)).await.status, 503, "{full}");
        assert_eq!(site.envoy.stat(&overflow).await, 1, "{full}");
        for (other, addr, row) in &rows {
            if other != full {
                let status = http::send(*addr, &whole(*row)).await.status;
                assert_eq!(status, 200, "{other} while {full} hangs");
            }
        }
        for held in [first, second] {
            assert_eq!(held.finish().await.status, 200, "{full}");
        }
    }
    assert_eq!(rows.len() + 1, site.upstreams.len());
}

/// Returns whether a request does not wait: uploads are of any size, and a WebSocket, as `/rtc` is one, does not end.
fn goes_on_at_once(row: &Row) -> bool {
    row.cluster == "synapse-media" || row.target.starts_with("/rtc")
}

/// Requests that anyone may send, and that no row of the table is.
const BY_ANYONE: [[&str; 5]; 5] = [
    [
        "mas",
        "gateway",
        MATRIX,
        "OPTIONS",
        "/_matrix/client/v3/logout/all",
    ],
    ["synapse-initial-sync", "gateway", MATRIX, "OPTIONS", SYNC],
    ["synapse-initial-sync", "gateway", MATRIX, "PATCH", SYNC],
    ["synapse-initial-sync", "gateway", MATRIX, "POST", SYNC],
    [
        "synapse-main",
        "gateway",
        MATRIX,
        "PUT",
        "/_matrix/client/v1/of_the_future",
    ],
];

/// The cluster, way, host, method and target of requests that must end before they take a place.
fn waiting() -> Vec<[&'static str; 5]> {
    let rows = rows().filter(|row| !goes_on_at_once(row));
    let mut found: Vec<_> = rows
        .map(|row| [row.cluster, row.way, row.host, row.method, row.target])
        .collect();
    found.extend(BY_ANYONE);
    found
}

/// Clients that do not end their requests take no places from those who do, on any route but those of media and calls. The
/// token `x` is of a foreign form, so it is judged by nobody before the homeserver.
#[tokio::test]
async fn a_request_takes_a_place_in_a_cluster_when_it_has_ended() {
    let site = Site::start_with(1, |config, _| {
        for [name, ..] in waiting() {
            set_thresholds(bootstrap::cluster(config, name), 1);
        }
        // Of one client at a time, so that a place is not held by the one before.
        set_thresholds(bootstrap::cluster(config, "mas-introspection"), 64);
    })
    .await;
    let open = async |way: &str, count: usize| {
        let active = format!("http.{way}.downstream_rq_active");
        let count = count as u64;
        site.envoy
            .wait_for_stat(&active, |active| active == count)
            .await;
    };
    let requests = waiting();
    assert!(requests.len() >= 70, "{}", requests.len());
    let mut held = Vec::new();
    for [_, way, row @ ..] in &requests {
        // One more than there are places, those to wait included.
        for _ in 0..3 {
            held.push(Unfinished::send(site.tls.listener(way), *row, "x").await);
        }
    }
    for way in ["gateway", "federation"] {
        let count = requests.iter().filter(|request| request[1] == way).count();
        open(way, 3 * count).await;
    }
    for [cluster, way, host, method, target] in &requests {
        let stat = format!("cluster.{cluster}.upstream_rq_active");
        assert_eq!(site.envoy.stat(&stat).await, 0, "{method} {target}");
        let request = Request::new(method, target).header("Host", host);
        let response = site.send(way, &request.bearer(&site.token)).await;
        assert_eq!(response.status, 200, "{method} {target}");
    }
    // What has ended goes on, whole.
    for [cluster, ..] in &requests {
        for held in held.drain(..3) {
            assert_eq!(held.finish().await.status, 200);
            let seen = site.upstreams[*cluster].requests();
            let seen = seen.iter().rfind(|seen| seen.path() != "/health");
            let seen = seen.expect("a request");
            assert_eq!(&*seen.body, b"12", "{} {}", seen.method, seen.target);
        }
    }
}

/// What a body may be long on each kind of route. More gets 413.
#[tokio::test]
async fn a_body_may_be_as_long_as_its_reader_takes_it() {
    /// What Synapse reads of any request but an upload: 200 events of 64 KiB.
    const OF_SYNAPSE: usize = 200 * 65_536;
    const SMALL: usize = 64 * 1024;
    let site = Site::start().await;
    let backup = "/_matrix/client/v3/room_keys/keys?version=1";
    let send = "/_matrix/client/v3/rooms/!a:b/send/m.x/1";
    let transaction = "/_matrix/federation/v1/send/1";
    for (way, method, target, most) in [
        ("gateway", "PUT", backup, OF_SYNAPSE),
        (
            "gateway",
            "POST",
            "/_matrix/client/v3/keys/upload",
            OF_SYNAPSE,
        ),
        (
            "gateway",
            "PUT",
            "/_matrix/client/v3/user/@a:b/account_data/m.x",
            OF_SYNAPSE,
        ),
        ("gateway", "PUT", transaction, OF_SYNAPSE),
        ("federation", "PUT", transaction, OF_SYNAPSE),
        ("gateway", "PUT", send, 1 << 20),
        ("gateway", "POST", "/_matrix/client/v3/login", SMALL),
        (
            "gateway",
            "DELETE",
            "/_matrix/client/v3/devices/X",
            SMALL / 4,
        ),
    ] {
        let request = Request::new(method, target).bearer(&site.token);
        let response = site
            .send(way, &request.clone().body("a".repeat(most)))
            .await;
        assert_eq!(response.status, 200, "{method} {target}");
        assert_eq!(response.json()["body_bytes"], most, "{method} {target}");
        assert_too_large(&site.send(way, &request.body("a".repeat(most + 1))).await);
    }
    // An upload is as large as it likes to be.
    let upload = Request::new("POST", "/_matrix/media/v3/upload").bearer(&site.token);
    let upload = upload.body("a".repeat(OF_SYNAPSE + 1));
    assert_eq!(site.send("gateway", &upload).await.status, 200);
}

/// The default of `curl -d` is a form, with whatever is in it, and guides put the token into the query: Synapse judges these.
#[tokio::test]
async fn a_form_goes_on_whatever_is_in_it() {
    let site = Site::start().await;
    let token = &site.token;
    for (host, target) in [
        (AUTH, "/oauth2/token"),
        (AUTH, "/oauth2/revoke"),
        (AUTH, "/login"),
        (MATRIX, "/_matrix/client/v3/login"),
        (MATRIX, "/_matrix/client/v3/register"),
        (MATRIX, "/_matrix/client/v3/auth/m.login.terms/fallback/web"),
        (MATRIX, "/_synapse/client/unsubscribe"),
        (MATRIX, "/_matrix/consent"),
        (MATRIX, "/_matrix/client/v3/keys/query"),
        (
            MATRIX,
            &format!("/_matrix/client/v3/join/!a:b?access_token={token}"),
        ),
        (
            MATRIX,
            &format!("/_matrix/media/v3/upload?access_token={token}"),
        ),
    ] {
        let form = Request::post(target, "application/x-www-form-urlencoded", "{\"a\":1}");
        let response = site.send("gateway", &form.header("Host", host)).await;
        assert_eq!(response.status, 200, "{target}");
    }
}

/// The serial number of the certificate that a listener shows.
async fn serial(addr: SocketAddr) -> String {
    let script = format!(
        "openssl s_client -connect {addr} -servername matrix.example.org </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let shown = tokio::task::spawn_blocking(|| Command::new("bash").arg("-c").arg(script).output());
    let shown = shown.await.expect("no panic").expect("bash starts");
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8(shown.stdout).expect("text")
}

/// Two files cannot be moved at once. Between the two moves the old certificate serves, and no handshake fails.
#[tokio::test]
async fn a_certificate_that_is_moved_into_place_is_shown_to_the_next_client() {
    let site = Site::start().await;
    let listeners = ["gateway", "federation"].map(|name| site.envoy.listener(name));
    let before = serial(listeners[0]).await;
    let folder = site.dir.path();
    let next = folder.join("next");
    fs::create_dir(&next).expect("a new directory");
    tls::make_certificate(&next, &["matrix.example.org"]);
    let mut open = Connection::open(site.tls.listener("gateway")).await;
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    assert_eq!(open.request(&whoami).await.status, 200);

    // Written over, nothing is moved. There is nothing to wait for, either.
    for name in ["privkey.pem", "fullchain.pem"] {
        fs::copy(next.join(name), folder.join(name)).expect("a file of our own");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(serial(listeners[0]).await, before);

    // The same by moving: a new pair, of which the key comes first.
    tls::make_certificate(&next, &["matrix.example.org"]);
    for name in ["privkey.pem", "fullchain.pem"] {
        for listener in listeners {
            assert_eq!(serial(listener).await, before);
        }
        fs::rename(next.join(name), folder.join(name)).expect("a file of our own");
    }
    within_limit("the new certificate", async {
        while serial(listeners[0]).await == before {}
    })
    .await;
    let after = serial(listeners[0]).await;
    assert_eq!(serial(listeners[1]).await, after);
    // Connections from before go on.
    assert_eq!(open.request(&whoami).await.status, 200);
}

#[tokio::test]
async fn a_secret_that_is_moved_into_place_goes_out_with_the_next_question() {
    let site = Site::start().await;
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    site.mas.set_secret("another");
    assert_no_verdict(&site.send("gateway", &whoami).await);
    let path = site.dir.path().join("mas-secret.yaml");
    let text = fs::read_to_string(&path).expect("a file of our own");
    let text = text.replace(stand_in::mas::DEFAULT_SECRET, "another");
    fs::write(path.with_extension("new"), text).expect("a file of our own");
    fs::rename(path.with_extension("new"), &path).expect("a file of our own");
    within_limit("the new secret", async {
        while site.send("gateway", &whoami).await.status != 200 {}
    })
    .await;
}
