//! Three Envoys of `envoy/fleet/envoy.yaml`, as it is shipped but for addresses, and what stands behind them.
//!
//! Every member must know the others' ports before any of them has started. So the ports are taken beforehand, by sockets
//! that never listen: Envoy shares them (`SO_REUSEPORT`), and no other program can be given one meanwhile.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{Client, DEFAULT_SECRET, Mas, Options, Session},
};
use tokio::net::TcpSocket;

use super::{
    super::{deployed::set_everywhere, edge::new_token},
    CLIENT, WORKERS,
};
use crate::support::{
    envoy::{Envoy, bootstrap, shipped_at},
    http::{Connection, Request, within_limit},
    switch::Switch,
};

/// Members of the fleet.
pub const MEMBERS: usize = 3;

/// The listeners that have a port of their own. The members, or the cluster of the same name, know it.
const LISTENERS: [&str; 7] = [
    "gateway",
    "introspection",
    "provisioning",
    "tier",
    "ends",
    "ends-again",
    "nowhere",
];

/// A change to the shipped configuration of a member.
type Change = Box<dyn Fn(&mut Value) + Send + Sync>;

/// The fleet and what it stands between.
pub struct Fleet {
    /// Behind all members.
    pub mas: Mas,
    /// Behind all members.
    pub homeserver: Homeserver,
    members: Vec<Option<Envoy>>,
    ports: Vec<Ports>,
    /// Where the mirrored requests for each member are sent.
    ends: Vec<SocketAddr>,
    change: Change,
}

impl Fleet {
    /// Starts three members as shipped.
    pub async fn start() -> Self {
        Self::start_with(|_| {}, None).await
    }

    /// Starts three members with this change to the file. What is mirrored to the last one is sent to `way_to_last`, if
    /// it is given, which is then led to that member.
    pub async fn start_with(
        change: impl Fn(&mut Value) + Send + Sync + 'static,
        way_to_last: Option<&Switch>,
    ) -> Self {
        let mut options = Options {
            logout_all: true,
            ..Options::default()
        };
        options.clients.push(Client::post(CLIENT.0, CLIENT.1));
        let ports: Vec<Ports> = (0..MEMBERS).map(|_| Ports::take()).collect();
        let mut ends: Vec<SocketAddr> = ports.iter().map(|ports| ports.of("ends")).collect();
        if let (Some(switch), Some(last)) = (way_to_last, ends.last_mut()) {
            switch.lead_to(*last);
            *last = switch.addr();
        }
        let mut fleet = Self {
            mas: Mas::start(options).await.expect("a free port"),
            homeserver: Homeserver::start_local().await.expect("a free port"),
            members: Vec::new(),
            ports,
            ends,
            change: Box::new(change),
        };
        for member in 0..MEMBERS {
            let envoy = fleet.start_member(member).await;
            fleet.members.push(Some(envoy));
        }
        fleet.wait_until_healthy(MEMBERS).await;
        fleet
    }

    /// A member that runs.
    pub fn member(&self, member: usize) -> &Envoy {
        self.members[member].as_ref().expect("the member runs")
    }

    fn running(&self) -> impl Iterator<Item = &Envoy> {
        self.members.iter().flatten()
    }

    /// Ends a member's process as it is.
    pub fn kill(&mut self, member: usize) {
        self.members[member] = None;
    }

    /// Starts a member that was killed, and waits until all ask it again.
    pub async fn restart(&mut self, member: usize) {
        let envoy = self.start_member(member).await;
        self.members[member] = Some(envoy);
        self.wait_until_healthy(MEMBERS).await;
    }

    /// Resolves when every running member knows that this many answer.
    pub async fn wait_until_healthy(&self, members: usize) {
        // And that which each has to itself.
        let members = members + 1;
        for envoy in self.running() {
            envoy
                .wait_for_stat("cluster.introspection-tier.membership_healthy", |healthy| {
                    healthy == members as u64
                })
                .await;
        }
    }

    async fn start_member(&self, member: usize) -> Envoy {
        let config = self.config(member);
        Envoy::builder()
            .concurrency(u32::try_from(WORKERS).expect("a few"))
            .env("MAS_SECRET", DEFAULT_SECRET)
            .bootstrap(move |whole| *whole = config)
            .start()
            .await
    }

    fn config(&self, member: usize) -> Value {
        // The members are on loopback, which has access as shipped.
        let mut config = shipped_at("envoy/fleet/envoy.yaml", &[]);
        // As shipped it rejects nothing yet.
        set_everywhere(&mut config, "mode", "enforce");
        for listener in bootstrap::listeners(&mut config) {
            let name = listener["name"].as_str().expect("a name").to_owned();
            if LISTENERS.contains(&&*name) {
                let port = self.ports[member].of(&name).port();
                listener["address"]["socket_address"]["port_value"] = port.into();
            }
            if name == "tier" {
                listener["address"]["socket_address"]["address"] = "0.0.0.0".into();
            }
        }
        bootstrap::listener(&mut config)["connection_balance_config"] =
            json!({"exact_balance": {}});
        let mas = self.mas.addr();
        for (name, addr) in [
            ("homeserver", self.homeserver.addr()),
            ("homeserver-media", self.homeserver.addr()),
            ("mas", mas),
            ("mas-for-synapse", mas),
            ("mas-introspection", mas),
            ("ends-again", self.ports[member].of("ends-again")),
            ("nowhere", self.ports[member].of("nowhere")),
        ] {
            bootstrap::move_cluster(bootstrap::cluster(&mut config, name), addr);
        }
        for (number, ends) in self.ends.iter().enumerate() {
            for mirrored in ["member", "revocations"] {
                let cluster = format!("{mirrored}-{}", number + 1);
                bootstrap::move_cluster(bootstrap::cluster(&mut config, &cluster), *ends);
            }
        }
        let tier = bootstrap::cluster(&mut config, "introspection-tier");
        let endpoints = tier.pointer_mut("/load_assignment/endpoints/0/lb_endpoints");
        let endpoints = endpoints.and_then(Value::as_array_mut).expect("a list");
        assert_eq!(endpoints.len(), MEMBERS + 1);
        for (endpoint, ports) in endpoints.iter_mut().zip(&self.ports) {
            bootstrap::move_endpoint(endpoint, ports.of("tier"));
        }
        // Envoy takes one endpoint of an address only, so this is another address of the same listener.
        let own = SocketAddr::from(([127, 0, 0, 2], self.ports[member].of("tier").port()));
        bootstrap::move_endpoint(&mut endpoints[MEMBERS], own);
        (self.change)(&mut config);
        config
    }

    /// A new active access token, and its session.
    pub fn session(&self, session: Session) -> String {
        let token = new_token("mat");
        self.mas.insert(&token, session);
        token
    }

    /// How many introspections each running member has sent to MAS since its start.
    pub async fn introspections(&self) -> Vec<u64> {
        let mut sent = Vec::new();
        for envoy in self.running() {
            sent.push(
                envoy
                    .stat("cluster.mas-introspection.upstream_rq_total")
                    .await,
            );
        }
        sent
    }

    /// Connections to the gateway of a member, of which each worker serves one.
    pub async fn connections(&self, member: usize) -> Vec<Connection> {
        let envoy = self.member(member);
        // Envoy gives each new one to the worker that has fewest. It counts one that was just closed until its worker has
        // noticed, and the first workers that start may have taken all of those who came at once.
        let mut one_each: [Option<Connection>; WORKERS] = Default::default();
        let mut others = Vec::new();
        within_limit("each worker to serve a connection", async {
            while one_each.iter().any(Option::is_none) {
                let before = self.served(member).await;
                let mut connection = Connection::open(envoy.addr()).await;
                // Envoy balances what it has accepted.
                let versions = Request::get("/_matrix/client/versions");
                assert_eq!(connection.request(&versions).await.status, 200);
                let after = self.served(member).await;
                let more: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
                assert_eq!(more.iter().sum::<u64>(), 1, "nobody else connects");
                let worker = more.iter().position(|more| *more == 1).expect("a worker");
                others.extend(one_each[worker].replace(connection));
            }
        })
        .await;
        one_each.into_iter().flatten().collect()
    }

    /// How many connections to the gateway each worker of a member has had.
    async fn served(&self, member: usize) -> [u64; WORKERS] {
        let envoy = self.member(member);
        let addr = envoy.addr().to_string().replace(':', "_");
        let mut served = [0; WORKERS];
        for (worker, served) in served.iter_mut().enumerate() {
            let stat = format!("listener.{addr}.worker_{worker}.downstream_cx_total");
            *served = envoy.stat(&stat).await;
        }
        served
    }

    /// Checks that no VM of a member has failed, and that Envoy has refused nothing.
    pub fn assert_untroubled(&self) {
        for envoy in self.running() {
            for trouble in ["RuntimeError", "Envoy refused", "panic at"] {
                assert!(!envoy.log().contains(trouble), "see the log");
            }
        }
    }
}

/// The ports of a member.
struct Ports(Vec<Port>);

struct Port {
    listener: &'static str,
    addr: SocketAddr,
    /// As long as it lives, no other program gets the port.
    _socket: TcpSocket,
}

impl Ports {
    fn take() -> Self {
        let take = |listener| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseport(true).expect("is known on Unix");
            // One of the listeners listens on every address, so the port must be free on each.
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            socket.bind(any).expect("a free port");
            let port = socket.local_addr().expect("an address").port();
            Port {
                listener,
                addr: SocketAddr::from(([127, 0, 0, 1], port)),
                _socket: socket,
            }
        };
        Self(LISTENERS.map(take).into())
    }

    fn of(&self, listener: &str) -> SocketAddr {
        let port = self.0.iter().find(|port| port.listener == listener);
        port.expect("a listener of the fleet").addr
    }
}
