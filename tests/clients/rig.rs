//! What the tests share: a MAS, a Synapse that has its accounts there, and an Envoy with the module in its three roles
//! between the two and their clients.
//!
//! Some must know the address of others that start later: [`Switch`]es stand for these.

use std::{net::SocketAddr, sync::LazyLock};

use serde_json::{Value, json};
use stand_in::mas::{Client, Mas, Options};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, MutexGuard, OnceCell},
};

use crate::support::{
    envoy::{Envoy, bootstrap},
    switch::Switch,
    synapse::Synapse,
};

/// The server name of the homeserver.
pub const SERVER_NAME: &str = "example.org";
/// The OAuth 2.0 client that the applications are.
pub const OAUTH_CLIENT: &str = "0000000000000000000000APP1";

const SECRET: &str = "SharedSecretForMas";
const INTROSPECTION: &str = "introspection";
const PROVISIONING: &str = "provisioning";

/// The paths that are MAS's on the homeserver's host; its own are below `/oauth2/`.
const MAS_PATHS: &str = "/_matrix/client/(api/v1|r0|v3|unstable)/(login(/sso/redirect(/[^/]*)?)?|logout(/all)?|refresh)";

/// Outlives the single test: MAS and Synapse are started once.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static RIG: OnceCell<Mutex<Rig>> = OnceCell::const_new();

/// A MAS and a Synapse, and the addresses by which all find each other.
pub struct Rig {
    /// The accounts.
    pub mas: Mas,
    /// Where Envoy finds MAS.
    pub to_mas: Switch,
    /// The homeserver.
    pub synapse: Synapse,
    /// Where the clients find the homeserver, and MAS too.
    public: Switch,
    /// Where Synapse finds MAS.
    synapse_to_mas: Switch,
}

/// Runs a test that has the rig to itself.
pub fn with_rig(test: impl AsyncFnOnce(MutexGuard<'static, Rig>)) {
    RUNTIME.block_on(async {
        let rig = RIG.get_or_init(Rig::start).await.lock().await;
        rig.mas.clear_faults();
        rig.to_mas.lead_to(rig.mas.addr());
        test(rig).await;
    })
}

impl Rig {
    async fn start() -> Mutex<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let public = Switch::start(nowhere).await;
        let options = Options {
            secret: SECRET.to_owned(),
            clients: vec![Client::public(OAUTH_CLIENT)],
            issuer: Some(format!("http://{}/", public.addr())),
            logout_all: true,
            ..Options::default()
        };
        let mas = Mas::start(options).await.expect("a free port");
        let to_mas = Switch::start(mas.addr()).await;
        let synapse_to_mas = Switch::start(mas.addr()).await;
        let plenty = json!({"per_second": 1_000, "burst_count": 1_000});
        let limits = json!({"rc_message": plenty, "rc_joins": {"local": plenty}, "rc_room_creation": plenty});
        let synapse = Synapse::start_with(SERVER_NAME, synapse_to_mas.addr(), SECRET, limits).await;
        Mutex::new(Self {
            mas,
            to_mas,
            synapse,
            public,
            synapse_to_mas,
        })
    }

    /// Starts an Envoy with the module in its three roles, with these members in the gateway's configuration, and puts it
    /// where clients, Synapse and MAS find it.
    pub async fn edge(&self, changes: Value) -> Envoy {
        let plugin = |role: &str| {
            json!({
                "role": role,
                "server_name": SERVER_NAME,
                "introspection": {
                    "cluster": "mas-introspection",
                    "authority": "auth.example.org",
                    "credential": {"bearer": {"value": SECRET}},
                },
            })
        };
        let mut gateway = plugin("gateway");
        for (key, value) in changes.as_object().into_iter().flatten() {
            gateway[key] = value.clone();
        }
        let mas = self.to_mas.addr();
        let envoy = Envoy::builder()
            .concurrency(2)
            .plugin(gateway)
            .internal_listener(INTROSPECTION, plugin(INTROSPECTION), "mas")
            .internal_listener(PROVISIONING, plugin(PROVISIONING), "homeserver")
            .homeserver(self.synapse.addr())
            .mas(mas)
            .bootstrap(move |config| {
                bootstrap::clusters(config)
                    .push(bootstrap::static_cluster("mas-introspection", mas));
                add_routes_to_mas(bootstrap::http_manager(config));
            })
            .start()
            .await;
        self.public.lead_to(envoy.addr());
        self.synapse_to_mas.lead_to(envoy.listener(INTROSPECTION));
        self.mas.set_homeserver(envoy.listener(PROVISIONING));
        envoy
    }

    /// Where clients find the homeserver.
    pub fn url(&self) -> String {
        format!("http://{}", self.public.addr())
    }

    /// Makes an account.
    pub async fn make_user(&self, localpart: &str) {
        self.synapse.provision_user(localpart).await;
    }
}

/// `@localpart:server_name`.
pub fn user_id(localpart: &str) -> String {
    format!("@{localpart}:{SERVER_NAME}")
}

fn add_routes_to_mas(http_manager: &mut Value) {
    let routes = http_manager["route_config"]["virtual_hosts"][0]["routes"]
        .as_array_mut()
        .expect("routes are a list");
    for path in [
        json!({"safe_regex": {"regex": MAS_PATHS}}),
        json!({"prefix": "/oauth2/"}),
    ] {
        routes.insert(0, json!({"match": path, "route": {"cluster": "mas"}}));
    }
}
