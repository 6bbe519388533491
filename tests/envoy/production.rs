//! `envoy/production/` as it is shipped, but for addresses, ports and certificates: every row of its routing table.
//!
//! Behind each cluster stands a server that counts. Clients reach the public listeners through TLS.

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session},
};
use tempfile::TempDir;

use super::{
    edge::{NOBODY, WHOAMI, assert_not_active, identity, new_token, values},
    http2::Http2,
    introspection_role::{assert_active, introspect},
    pages::outcome,
    tls::{self, Way},
};
use crate::support::{
    envoy::{Envoy, bootstrap, read, shipped_at, yaml},
    folder_pages,
    http::{self, Connection, Request, Response, within_limit},
};

pub const MATRIX: &str = "matrix.example.org";
pub const AUTH: &str = "auth.example.org";
pub const RTC: &str = "matrix-rtc.example.org";
const SERVER_NAME: &str = "example.org";

/// Rows of the routing table: method, target, the cluster that must get it, and the user whom that must be told of.
/// `-`: of nobody, though the request has a token, and says to be another's.
type Table = &'static str;

/// The host of MAS.
const OF_MAS: Table = "
GET    /                                                                     mas-pages                  -
GET    /authorize?client_id=x                                                mas-pages                  -
POST   /oauth2/revoke                                                        mas                        -
POST   /oauth2/introspect                                                    mas                        -
POST   /graphql                                                              mas-pages                  -
GET    /api/admin/v1/users                                                   mas-pages                  -
";

/// The host of the homeserver.
const OF_MATRIX: Table = "
# The login API.
GET    /_matrix/client/v3/login                                              mas                        -
POST   /_matrix/client/r0/login                                              mas                        -
GET    /_matrix/client/v3/login/sso/redirect                                 mas                        -
GET    /_matrix/client/v3/login/sso/redirect/                                mas                        -
GET    /_matrix/client/v3/login/sso/redirect/oidc-x                          mas                        -
POST   /_matrix/client/v3/refresh                                            mas                        -
POST   /_matrix/client/v3/login/get_token                                    synapse-main               alice
# Sync.
GET    /_matrix/client/v3/sync?since=s1                                      synapse-sync               alice
GET    /_matrix/client/r0/sync?timeout=0&since=s1                            synapse-sync               alice
GET    /_matrix/client/r0/events?from=s1                                     synapse-sync               alice
POST   /_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos=1     synapse-sync               alice
GET    /_matrix/client/v3/sync                                               synapse-initial-sync       alice
GET    /_matrix/client/v3/sync?since=                                        synapse-initial-sync       alice
GET    /_matrix/client/v3/sync?since=s1&full_state=true                      synapse-initial-sync       alice
GET    /_matrix/client/v3/initialSync                                        synapse-initial-sync       alice
GET    /_matrix/client/r0/rooms/!a:b/initialSync                             synapse-initial-sync       alice
# Media.
POST   /_matrix/media/v3/upload                                              synapse-media              alice
GET    /_matrix/client/v1/media/download/b/c                                 synapse-media              alice
# Other homeservers.
GET    /_matrix/federation/v1/media/download/c                               synapse-media              -
PUT    /_matrix/federation/v1/send/1                                         synapse-federation-inbound -
GET    /_matrix/federation/v1/version                                        synapse-federation-reader  -
PUT    /_matrix/federation/v2/send_join/!a:b/c                               synapse-federation-reader  -
GET    /_matrix/key/v2/server                                                synapse-federation-reader  -
# Stream writers.
PUT    /_matrix/client/v3/rooms/!a:b/typing/@c:d                             synapse-typing             alice
PUT    /_matrix/client/v3/sendToDevice/m.x/1                                 synapse-to-device          alice
GET    /_matrix/client/v3/user/@a:b/rooms/!c:d/tags                          synapse-account-data       alice
PUT    /_matrix/client/v3/user/@a:b/account_data/m.x                         synapse-account-data       alice
POST   /_matrix/client/v3/rooms/!a:b/receipt/m.read/$c                       synapse-receipts           alice
POST   /_matrix/client/v3/rooms/!a:b/read_markers                            synapse-receipts           alice
PUT    /_matrix/client/v3/presence/@a:b/status                               synapse-presence           alice
GET    /_matrix/client/v3/pushrules/                                         synapse-push-rules         alice
GET    /_matrix/client/v3/devices                                            synapse-device-lists       alice
DELETE /_matrix/client/v3/devices/X                                          synapse-device-lists       alice
POST   /_matrix/client/v3/delete_devices                                     synapse-device-lists       alice
POST   /_matrix/client/v3/keys/upload                                        synapse-device-lists       alice
POST   /_matrix/client/v3/keys/signatures/upload                             synapse-device-lists       alice
POST   /_matrix/client/v3/keys/device_signing/upload                         synapse-device-lists       alice
# Event creators. A room's transaction may be called as a stream is.
PUT    /_matrix/client/v3/rooms/!a:b/send/m.x/typing                         synapse-event-creator      alice
PUT    /_matrix/client/v3/rooms/!a:b/state/m.x/                              synapse-event-creator      alice
PUT    /_matrix/client/v3/rooms/!a:b/redact/$c/1                             synapse-event-creator      alice
POST   /_matrix/client/v3/rooms/!a:b/join                                    synapse-event-creator      alice
POST   /_matrix/client/v3/join/%23a%3Ab                                      synapse-event-creator      alice
POST   /_matrix/client/unstable/knock/!a:b                                   synapse-event-creator      alice
PUT    /_matrix/client/v3/profile/@a:b/displayname                           synapse-event-creator      alice
# Client readers.
GET    /_matrix/client/v3/rooms/!a:b/messages                                synapse-client-reader      alice
POST   /_matrix/client/v3/createRoom                                         synapse-client-reader      alice
GET    /_matrix/client/v3/rooms/!a:b/state                                   synapse-client-reader      alice
GET    /_matrix/client/v3/rooms/!a:b/context/$c                              synapse-client-reader      alice
GET    /_matrix/client/v1/rooms/!a:b/threads                                 synapse-client-reader      alice
GET    /_matrix/client/v1/rooms/!a:b/relations/$c                            synapse-client-reader      alice
GET    /_matrix/client/v3/account/whoami                                     synapse-client-reader      alice
GET    /_matrix/client/v3/capabilities                                       synapse-client-reader      alice
POST   /_matrix/client/v3/keys/query                                         synapse-client-reader      alice
GET    /_matrix/client/v3/room_keys/version                                  synapse-client-reader      alice
POST   /_matrix/client/v3/user_directory/search                              synapse-client-reader      alice
POST   /_matrix/client/v3/user/@a:b/filter                                   synapse-client-reader      alice
GET    /_matrix/client/versions                                              synapse-client-reader      alice
# Synapse's own.
GET    /_synapse/admin/v2/users                                              synapse-main               alice
POST   /_synapse/admin/v1/purge_media_cache                                  synapse-media              alice
GET    /_synapse/admin/v1/users/@a:b/media                                   synapse-media              alice
POST   /_synapse/admin/v1/room/!a:b/media/quarantine                         synapse-media              alice
GET    /_synapse/client/unsubscribe                                          synapse-main               -
# All else.
GET    /_matrix/client/v3/thirdparty/protocols                               synapse-main               alice
POST   /_matrix/client/v3/register                                           synapse-main               -
# Last, since they end the session.
POST   /_matrix/client/v3/logout/all                                         mas                        -
POST   /_matrix/client/api/v1/logout                                         mas                        -
POST   /_matrix/client/unstable/logout                                       mas                        -
";

/// The host of MatrixRTC.
const OF_RTC: Table = "
POST   /sfu/get                                                              lk-jwt-service             -
POST   /get_token                                                            lk-jwt-service             -
POST   /delegate_delayed_leave                                               lk-jwt-service             -
POST   /sfu_webhook                                                          lk-jwt-service             -
GET    /rtc?access_token=jwt                                                 livekit                    -
POST   /twirp/livekit.RoomService/ListRooms                                  livekit                    -
";

/// The listener for other homeservers.
const OF_FEDERATION: Table = "
GET    /_matrix/federation/v1/version                                        synapse-federation-reader  -
GET    /_matrix/key/v2/server                                                synapse-federation-reader  -
PUT    /_matrix/federation/v1/send/1                                         synapse-federation-inbound -
GET    /_matrix/federation/v1/media/download/c                               synapse-media              -
GET    /_matrix/media/v3/download/b/c                                        synapse-media              -
GET    /_matrix/media/r0/download/b/c/name.png                               synapse-media              -
GET    /_matrix/media/v1/thumbnail/b/c?width=1                               synapse-media              -
";

/// Targets that a proxy which normalises would change.
const AS_SENT: &[(&str, &str)] = &[
    (
        "/_matrix/federation/v1/event/%24a%2Fb%7Ec%41",
        "synapse-federation-reader",
    ),
    (
        "/_matrix/federation/v1//query/./x/..a/profile?user_id=%40a%3Ab%7E&&x=%2F/../",
        "synapse-federation-reader",
    ),
    (
        "/_matrix/federation/v1/send/%2e/...%2E/%5C",
        "synapse-federation-inbound",
    ),
    ("/_matrix/key/v2/query/%7Eb//", "synapse-federation-reader"),
];

/// What is a client's, or has `..` in its path: not on the listener for other homeservers, nor past the module on the
/// gateway's.
const NOT_OF_FEDERATION: [(&str, &str); 14] = [
    ("GET", WHOAMI),
    ("POST", "/_matrix/media/v3/upload"),
    ("PUT", "/_matrix/media/v3/upload/b/c"),
    ("POST", "/_matrix/media/v1/create"),
    ("GET", "/_matrix/media/v3/config"),
    ("GET", "/_matrix/media/v3/preview_url?url=http://192.0.2.1/"),
    ("POST", "/_matrix/media/v3/download/b/c"),
    ("GET", "/_matrix/media/v3/download/../../upload"),
    ("GET", "/_matrix/federation/../client/v3/sync"),
    (
        "GET",
        "/_matrix/federation/v1/media/../../../client/v3/sync",
    ),
    ("GET", "/_matrix/federation/%2e%2E%2fclient/v3/sync"),
    ("PUT", "/_matrix/federation/v1/send/.%2e"),
    ("GET", "/_matrix/key/v2/\\..\\x"),
    ("GET", "/_matrix/key/v2/..?x=1"),
];

/// Names that some server reads as those of identity headers.
const SPELLINGS: [(&str, &str); 4] = [
    ("X-Matrix-User-Id", "@admin:example.org"),
    ("x-matrix-device-id", "FORGED"),
    ("X.Matrix.User.Id", "@admin:example.org"),
    ("x-matrix~device!id", "FORGED"),
];

/// The same with tokens.
const AS_SENT_BY_CLIENTS: &[(&str, &str)] = &[
    (
        "/_matrix/client/v3/room_keys/keys/%21r%3Ax/a%2Fb%7E",
        "synapse-client-reader",
    ),
    (
        "/_matrix/client/v3//account/../x/%2e%2E/whoami/?a=%7E",
        "synapse-main",
    ),
    (
        "/_matrix/client/v3/rooms/%21a%3Ab/send/m.x/%2F%5C%41",
        "synapse-event-creator",
    ),
];

/// An Envoy with what stands behind and before it.
pub struct Site {
    /// Behind `mas-introspection`.
    pub mas: Mas,
    /// Behind all other clusters, by name.
    pub upstreams: BTreeMap<String, Homeserver>,
    pub envoy: Envoy,
    /// The ways in: `gateway`, `gateway from elsewhere`, `gateway over HTTP/2`, `federation`.
    pub tls: Envoy,
    /// Active, and an administrator's.
    pub token: String,
    /// In the place of `/etc/envoy` and `/etc/envoy/tls`.
    pub dir: TempDir,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_with(2, |_, _| {}).await
    }

    /// With so many workers. `edit` gets the configuration and the address of MAS.
    pub async fn start_with(
        workers: u32,
        edit: impl FnOnce(&mut Value, SocketAddr) + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        tls::make_certificate(dir.path(), &[MATRIX, AUTH, RTC, SERVER_NAME]);
        let here = format!("{}/", dir.path().display());
        for name in ["certificate.yaml", "mas-secret.yaml"] {
            let text = read(&format!("envoy/production/{name}"))
                .replace("/etc/envoy/tls/", &here)
                .replace("/etc/envoy/tls ", &here)
                .replace("change-me", DEFAULT_SECRET);
            std::fs::write(dir.path().join(name), text).expect("a file of our own");
        }
        let path = "envoy/production/envoy.yaml";
        let mut config = shipped_at(path, &[("/etc/envoy/", &here)]);
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let mut upstreams = BTreeMap::new();
        for cluster in bootstrap::clusters(&mut config) {
            let name = cluster["name"].as_str().expect("a name").to_owned();
            if name == "mas-introspection" {
                bootstrap::move_cluster(cluster, mas.addr());
                continue;
            }
            let upstream = Homeserver::start_local().await.expect("a free port");
            bootstrap::move_cluster(cluster, upstream.addr());
            upstreams.insert(name, upstream);
        }
        edit(&mut config, mas.addr());
        let envoy = Envoy::builder()
            .concurrency(workers)
            .bootstrap(move |whole| *whole = config)
            .start()
            .await;
        let way = |name, listener, protocol, from| Way {
            name,
            to: envoy.listener(listener),
            protocol,
            from,
        };
        let ways = vec![
            way("gateway", "gateway", "http/1.1", "127.0.0.1"),
            way("gateway from elsewhere", "gateway", "http/1.1", "127.0.0.2"),
            way("gateway over HTTP/2", "gateway", "h2", "127.0.0.1"),
            way("federation", "federation", "http/1.1", "127.0.0.1"),
        ];
        let tls = tls::start(ways, &dir.path().join("fullchain.pem")).await;
        let token = new_token("mat");
        mas.insert(&token, Session::access("alice", "PHONE").admin());
        Self {
            mas,
            upstreams,
            envoy,
            tls,
            token,
            dir,
        }
    }

    pub async fn send(&self, way: &str, request: &Request) -> Response {
        http::send(self.tls.listener(way), request).await
    }

    /// All requests with the mark, and the clusters that got them. Envoy's own looks at their health have none.
    fn seen(&self, mark: &str) -> Vec<(&str, SeenRequest)> {
        let mut found = Vec::new();
        for (cluster, upstream) in &self.upstreams {
            let mut seen = upstream.requests();
            seen.retain(|seen| values(seen, "x-mark") == [mark]);
            found.extend(seen.into_iter().map(|seen| (cluster.as_str(), seen)));
        }
        found
    }

    /// Sends a request that must reach one cluster, as it is; returns what that saw.
    async fn route(
        &self,
        way: &str,
        host: &str,
        method: &str,
        target: &str,
        cluster: &str,
    ) -> SeenRequest {
        let mark = new_token("mark");
        let request = self
            .forged(Request::new(method, target))
            .header("Host", host)
            .header("X-Mark", &mark)
            .bearer(&self.token);
        let response = self.send(way, &request).await;
        assert_eq!(response.status, 200, "{method} {target}: {response:?}");
        let mut seen = self.seen(&mark);
        let reached: Vec<&str> = seen.iter().map(|(cluster, _)| *cluster).collect();
        assert_eq!(reached, [cluster], "{method} {host}{target}");
        let (_, seen) = seen.remove(0);
        assert_eq!((&*seen.method, &*seen.target), (method, target));
        assert_eq!(values(&seen, "host"), [host]);
        // Synapse believes the first address, so there is one, and it is not the client's to choose.
        assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"], "{target}");
        assert_eq!(values(&seen, "x-forwarded-proto"), ["https"], "{target}");
        seen
    }

    /// With an identity and an address that the client made up.
    fn forged(&self, request: Request) -> Request {
        let forged = request.header("X-Forwarded-For", "192.0.2.1");
        SPELLINGS
            .iter()
            .fold(forged, |request, (name, value)| request.header(name, value))
    }
}

/// A row of the routing table.
#[derive(Clone, Copy)]
pub struct Row {
    pub way: &'static str,
    pub host: &'static str,
    pub method: &'static str,
    pub target: &'static str,
    pub cluster: &'static str,
    pub user: &'static str,
}

/// All rows of the routing table.
pub fn rows() -> impl Iterator<Item = Row> {
    [
        ("gateway", AUTH, OF_MAS),
        ("gateway", MATRIX, OF_MATRIX),
        ("gateway", RTC, OF_RTC),
        ("federation", SERVER_NAME, OF_FEDERATION),
    ]
    .into_iter()
    .flat_map(|(way, host, table)| {
        let rows = table
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        rows.map(move |row| {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let [method, target, cluster, user] = columns[..] else {
                panic!("four columns: {row}");
            };
            Row {
                way,
                host,
                method,
                target,
                cluster,
                user,
            }
        })
    })
}

/// A way, a host, a method and a target that lead to a cluster, out of the table.
pub fn row_of(cluster: &str) -> Option<[&'static str; 4]> {
    let row = rows().find(|row| row.cluster == cluster)?;
    Some([row.way, row.host, row.method, row.target])
}

#[track_caller]
fn assert_told(seen: &SeenRequest, user: &str) {
    let wanted = match user {
        "alice" => [vec!["@alice:example.org"], vec!["PHONE"]],
        _ => NOBODY,
    };
    assert_eq!(identity(seen), wanted, "{}", seen.target);
    for (name, value) in SPELLINGS {
        assert!(
            !values(seen, name).contains(&value),
            "{name}: {}",
            seen.target
        );
    }
}

#[tokio::test]
async fn every_row_of_the_production_table_reaches_its_cluster_with_the_right_headers() {
    let site = Site::start().await;
    for row in rows() {
        let seen = site
            .route(row.way, row.host, row.method, row.target, row.cluster)
            .await;
        assert_told(&seen, row.user);
    }
    // Every cluster but Envoy's own, and those of Synapse's and of MAS's calls, was reached by a row.
    let untouched = site.upstreams.iter().filter(|(_, upstream)| {
        upstream
            .requests()
            .iter()
            .all(|seen| seen.path() == "/health")
    });
    let untouched: Vec<&str> = untouched.map(|(name, _)| name.as_str()).collect();
    assert_eq!(untouched, ["admin", "mas-for-synapse", "synapse-mas"]);
    // One token, one question.
    assert_eq!(site.mas.total_calls(), 1);
}

/// A Synapse of one process, after the command of the page that leads every route to it.
struct OneProcess {
    homeserver: Homeserver,
    mas: Mas,
    envoy: Envoy,
    tls: Envoy,
    token: String,
    _dir: TempDir,
}

impl OneProcess {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        tls::make_certificate(dir.path(), &[MATRIX, AUTH, RTC, SERVER_NAME]);
        let here = format!("{}/", dir.path().display());
        for name in ["certificate.yaml", "mas-secret.yaml", "envoy.yaml"] {
            let text = read(&format!("envoy/production/{name}"))
                .replace("/etc/envoy/tls", "/etc/envoy")
                .replace("/etc/envoy/matrix-edge-auth.wasm", "MODULE")
                .replace("/etc/envoy", dir.path().to_str().expect("UTF-8"))
                .replace("MODULE", "/etc/envoy/matrix-edge-auth.wasm")
                .replace("change-me", DEFAULT_SECRET);
            std::fs::write(dir.path().join(name), text).expect("a file of our own");
        }
        let page = folder_pages::commands(&read("envoy/production/README.md"));
        let command = page.iter().find(|command| command.starts_with("sed "));
        let command = command
            .expect("the page says how")
            .replace("/etc/envoy/", &here);
        let mut bash = Command::new("bash");
        bash.args(["-c", &command]);
        outcome(bash).await.expect("sed knows the command");

        let homeserver = Homeserver::start_local().await.expect("a free port");
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let at = |addr: SocketAddr| format!("address: {}, port_value: {}", addr.ip(), addr.port());
        // The names of the page lead to the stand-ins, each by itself. What is called otherwise leads nowhere.
        let replaced = [
            ("address: synapse, port_value: 8008", at(homeserver.addr())),
            ("address: mas, port_value: 8080", at(mas.addr())),
        ];
        let path = dir.path().join("envoy.yaml");
        let replaced: Vec<(&str, &str)> =
            replaced.iter().map(|(from, to)| (*from, &**to)).collect();
        let config = shipped_at(path.to_str().expect("UTF-8"), &replaced);
        let envoy = Envoy::builder()
            .concurrency(2)
            .bootstrap(move |whole| *whole = config);
        let envoy = envoy.start().await;
        let way = |name| Way {
            name,
            to: envoy.listener(name),
            protocol: "http/1.1",
            from: "127.0.0.1",
        };
        let ways = vec![way("gateway"), way("federation")];
        let tls = tls::start(ways, &dir.path().join("fullchain.pem")).await;
        let token = new_token("mat");
        mas.insert(&token, Session::access("alice", "PHONE").admin());
        Self {
            homeserver,
            mas,
            envoy,
            tls,
            token,
            _dir: dir,
        }
    }
}

#[tokio::test]
async fn one_command_suits_a_synapse_of_one_process() {
    let site = OneProcess::start().await;
    site.mas.set_homeserver(site.envoy.listener("provisioning"));
    let mut requests = 0;
    for (way, host, table) in [
        ("gateway", MATRIX, OF_MATRIX),
        ("federation", SERVER_NAME, OF_FEDERATION),
    ] {
        for row in table
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let [method, target, cluster, user] = columns[..] else {
                panic!("four columns: {row}");
            };
            if cluster == "mas" {
                continue;
            }
            let mark = new_token("mark");
            let request = Request::new(method, target)
                .header("Host", host)
                .header("X-Mark", &mark)
                .bearer(&site.token);
            let response = http::send(site.tls.listener(way), &request).await;
            assert_eq!(response.status, 200, "{method} {target}: {response:?}");
            let mut seen = site.homeserver.requests();
            seen.retain(|seen| values(seen, "x-mark") == [&*mark]);
            assert_eq!(seen.len(), 1, "{method} {target}");
            assert_told(&seen[0], user);
            requests += 1;
        }
    }
    assert!(requests > 50, "{requests} rows");
    // What MAS says of users reaches it, too.
    site.mas.lock_user("alice");
    site.mas.wait_until_provisioned().await;
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    within_limit("the answer to end", async {
        while http::send(site.tls.listener("gateway"), &whoami)
            .await
            .status
            == 200
        {}
    })
    .await;
}

#[tokio::test]
async fn the_production_listeners_leave_every_byte_of_a_path() {
    let site = Site::start().await;
    for way in ["federation", "gateway"] {
        for (target, cluster) in AS_SENT {
            let seen = site.route(way, MATRIX, "GET", target, cluster).await;
            assert_told(&seen, "nobody");
        }
    }
    for (target, cluster) in AS_SENT_BY_CLIENTS {
        let seen = site.route("gateway", MATRIX, "PUT", target, cluster).await;
        assert_told(&seen, "alice");
    }
}

#[tokio::test]
async fn the_production_gateway_answers_what_has_no_cluster() {
    let site = Site::start().await;
    let ask = async |host: &str, method: &str, target: &str| {
        let request = Request::new(method, target).header("Host", host);
        site.send("gateway", &request).await
    };
    // 1. Where the server name leads.
    for (name, member) in [
        ("client", "m.homeserver"),
        ("server", "m.server"),
        ("support", "contacts"),
    ] {
        let path = format!("/.well-known/matrix/{name}");
        let response = ask(SERVER_NAME, "GET", &path).await;
        assert_eq!(response.status, 200);
        assert!(!response.json()[member].is_null(), "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        assert_eq!(ask(SERVER_NAME, "HEAD", &path).await.status, 200);
        assert_eq!(ask(SERVER_NAME, "OPTIONS", &path).await.status, 204);
        for method in ["PUT", "POST", "DELETE"] {
            assert_eq!(ask(SERVER_NAME, method, &path).await.status, 405);
        }
    }
    assert_eq!(
        ask(SERVER_NAME, "GET", "/.well-known/matrix/x")
            .await
            .status,
        404
    );
    // 2. What of MAS is for probes. 4. What of Synapse is for nobody, in any encoding.
    for (host, target) in [
        (AUTH, "/health"),
        (AUTH, "/metrics"),
        (MATRIX, "/_synapse/mas/query_user"),
        (MATRIX, "/_synapse/%6das/query_user"),
        (MATRIX, "/_matrix/../_synapse/replication/x"),
        (MATRIX, "/_synapse/metrics"),
        (MATRIX, "/"),
        ("elsewhere.example.com", "/_matrix/client/versions"),
    ] {
        assert_eq!(ask(host, "GET", target).await.status, 404, "{host}{target}");
    }
    for (method, target) in NOT_OF_FEDERATION {
        let request = Request::new(method, target).bearer(&site.token);
        let response = site.send("federation", &request).await;
        assert_eq!(response.status, 404, "{method} {target}");
        if target.starts_with("/_matrix/federation/") || target.starts_with("/_matrix/key/") {
            let on_gateway = request.header("Host", MATRIX);
            let response = site.send("gateway", &on_gateway).await;
            assert_eq!(response.status, 404, "{method} {target}");
        }
    }
    // The two administrations are for trusted networks only.
    for (host, target) in [
        (MATRIX, "/_synapse/admin/v2/users"),
        (MATRIX, "/_synapse/admin/v1/purge_media_cache"),
        (AUTH, "/api/admin/v1/users"),
    ] {
        let request = Request::get(target)
            .header("Host", host)
            .bearer(&site.token);
        let from_elsewhere = site.send("gateway from elsewhere", &request).await;
        assert_eq!(from_elsewhere.status, 403, "{target}");
        assert_eq!(site.send("gateway", &request).await.status, 200, "{target}");
    }
    // No client needs headers this large.
    let large = Request::get(WHOAMI).header("X-Large", "a".repeat(17 * 1024));
    assert_eq!(site.send("gateway", &large).await.status, 431);
    // To some servers this is an identity header.
    let underscores = Request::get(WHOAMI).header("x_matrix_user_id", "@admin:example.org");
    assert_eq!(site.send("gateway", &underscores).await.status, 400);
}

#[tokio::test]
async fn only_calls_of_matrix_rtc_are_upgraded() {
    let site = Site::start().await;
    let upgrade = |host: &str, target: &str| {
        Request::get(target)
            .header("Host", host)
            .header("X-Mark", target)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .bearer(&site.token)
    };
    site.send("gateway", &upgrade(RTC, "/rtc")).await;
    let seen = site.seen("/rtc");
    assert_eq!((seen.len(), seen[0].0), (1, "livekit"));
    assert_eq!(values(&seen[0].1, "upgrade"), ["websocket"]);
    assert_eq!(
        site.send("gateway", &upgrade(MATRIX, WHOAMI)).await.status,
        403
    );
    assert_eq!(
        site.send("gateway", &upgrade(RTC, "/sfu/get")).await.status,
        403
    );
}

#[tokio::test]
async fn the_production_gateway_speaks_http2_and_writes_what_it_knows() {
    let site = Site::start().await;
    let mut http2 = Http2::open(site.tls.listener("gateway over HTTP/2")).await;
    let bearer = format!("Bearer {}", site.token);
    http2
        .request(WHOAMI, &[("authorization", &bearer)], true)
        .await;
    let line = logged(&site.envoy, &format!("\"{WHOAMI}\"")).await;
    assert_eq!(
        line,
        json!({
            "listener": "gateway", "client": "127.0.0.1", "protocol": "HTTP/2", "method": "GET",
            "host": MATRIX, "path": WHOAMI, "status": 200, "details": "via_upstream", "flags": "-",
            "cluster": "synapse-client-reader", "received_bytes": 0, "user": "@alice:example.org",
            "device": "PHONE", "verdict": "active", "verdict_source": "mas",
            "would_reject": null, "request_id": line["request_id"],
            "time": line["time"], "duration_ms": line["duration_ms"], "sent_bytes": line["sent_bytes"],
            "upstream": line["upstream"],
        })
    );
    let refused = Request::get("/_matrix/client/v3/refused").bearer(&new_token("mat"));
    assert_not_active(&site.send("gateway", &refused).await);
    let line = logged(&site.envoy, "v3/refused").await;
    assert_eq!(line["details"], "matrix_edge_auth_not_active");
    assert_eq!(
        (&line["verdict"], &line["user"]),
        (&json!("inactive"), &Value::Null)
    );
    // Where no token is judged, the module is not asked at all.
    for (way, host, path) in [
        ("federation", SERVER_NAME, "/_matrix/federation/v1/version"),
        ("gateway", MATRIX, "/_matrix/federation/v1/event/a"),
        ("gateway", MATRIX, "/_matrix/federation/v1/send/a"),
        ("gateway", MATRIX, "/_matrix/federation/v1/media/download/a"),
        ("gateway", MATRIX, "/_matrix/key/v2/server"),
        ("gateway", RTC, "/sfu/get"),
        ("gateway", RTC, "/rtc"),
        ("gateway", SERVER_NAME, "/.well-known/matrix/server"),
    ] {
        let request = Request::get(path).header("Host", host).bearer("x");
        assert_eq!(site.send(way, &request).await.status, 200, "{path}");
        let line = logged(&site.envoy, &format!("\"{path}\"")).await;
        assert_eq!(line["listener"], way);
        assert_eq!(line["verdict"], Value::Null, "{path}");
    }
    assert!(!site.envoy.log().contains(&site.token));
}

/// The line of the access log with this text, which is in one only.
async fn logged(envoy: &Envoy, text: &str) -> Value {
    yaml(&envoy.wait_for_log(text).await)
}

#[tokio::test]
async fn the_production_roles_share_answers_and_only_the_modules_calls_get_the_credential() {
    // Here clients, and Synapse, reach a real MAS.
    let site = Site::start_with(2, |config, mas| {
        for cluster in ["mas", "mas-for-synapse"] {
            bootstrap::move_cluster(bootstrap::cluster(config, cluster), mas);
        }
    })
    .await;
    site.mas.set_homeserver(site.envoy.listener("provisioning"));
    let whoami = Request::get(WHOAMI).bearer(&site.token);
    assert_eq!(site.send("gateway", &whoami).await.status, 200);
    assert_eq!(site.mas.total_calls(), 1);

    // MAS has to accept Synapse once in each worker, then the cache answers.
    let mut synapse = Connection::open(site.envoy.listener("introspection")).await;
    for _ in 0..3 {
        assert_active(&synapse.request(&introspect(&site.token)).await, "alice");
    }
    assert_eq!(site.mas.total_calls(), 2);

    // Nobody gets in by the credential of the module's calls.
    let form = "application/x-www-form-urlencoded";
    let body = format!("token={}", site.token);
    let without = Request::post("/oauth2/introspect", form, body).header("Host", AUTH);
    for (request, status) in [(without.clone(), 400), (without.bearer("x"), 401)] {
        assert_eq!(site.send("gateway", &request).await.status, status);
    }

    // What MAS says of a user ends the answer, and reaches the homeserver.
    site.mas.lock_user("alice");
    within_limit("the answer to end", async {
        while site.send("gateway", &whoami).await.status == 200 {}
    })
    .await;
    assert_not_active(&site.send("gateway", &whoami).await);
    assert!(site.upstreams["synapse-mas"].count() > 0);
    let others = Request::get("/_matrix/client/versions").header("X-Mark", "other");
    http::send(site.envoy.listener("provisioning"), &others).await;
    assert_eq!(site.seen("other")[0].0, "synapse-main");
}

#[tokio::test]
async fn the_production_probe_and_metrics_are_all_that_operations_shows() {
    let site = Site::start().await;
    let operations = site.envoy.listener("operations");
    let ask = async |target: &str| http::send(operations, &Request::get(target)).await.status;
    assert_eq!(ask("/healthz").await, 200);
    assert_eq!(ask("/stats/prometheus").await, 200);
    let seen = site.upstreams["admin"].requests();
    assert_eq!(
        seen.iter().map(SeenRequest::path).collect::<Vec<_>>(),
        ["/stats/prometheus"]
    );
    for target in [
        "/",
        "/config_dump",
        "/quitquitquit",
        "/stats/prometheus/",
        "/certs",
    ] {
        assert_eq!(ask(target).await, 404, "{target}");
    }
    let fail = Request::new("POST", "/healthcheck/fail").body("");
    assert_eq!(http::send(site.envoy.admin(), &fail).await.status, 200);
    assert_eq!(ask("/healthz").await, 503);
}

#[tokio::test]
async fn who_asks_production_without_tls_is_told_to_come_with_it() {
    let site = Site::start().await;
    let target = "/_matrix/federation/v1/event/%24a%2Fb/..?x=%7E";
    for (host, method) in [(MATRIX, "GET"), (AUTH, "POST")] {
        let request = Request::new(method, target).header("Host", host);
        let response = http::send(site.envoy.listener("redirect"), &request).await;
        assert_eq!(response.status, 301, "{response:?}");
        let location = format!("https://{host}{target}");
        assert_eq!(response.header("location"), Some(&*location));
    }
}
