//! What the tests share: a MAS, a Synapse that has its accounts there, and a gateway in front of
//! that Synapse.

use std::{net::SocketAddr, sync::LazyLock};

use serde_json::json;
use sha2::{Digest, Sha256};
use stand_in::{
    SeenRequest,
    mas::{Mas, Options, Session},
};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, MutexGuard, OnceCell},
};

use super::recorder::Recorder;
use crate::support::{
    envoy::Envoy,
    synapse::{AS_TOKEN, Synapse},
};

/// The server name of the homeserver.
pub const SERVER_NAME: &str = "example.org";
/// The secret that MAS shares with Synapse and with the edge.
pub const SECRET: &str = "SharedSecretForMas";

/// More than one request causes.
const KEEP_INTROSPECTIONS: usize = 20;

/// Outlives the single test: MAS and Synapse are started once.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static RIG: OnceCell<Mutex<Rig>> = OnceCell::const_new();

/// A MAS and a Synapse.
pub struct Rig {
    /// The accounts.
    pub mas: Mas,
    /// The homeserver.
    pub synapse: Synapse,
}

/// Runs a test that has the rig to itself: introspections are counted, and faults are for all.
pub fn with_rig(test: impl AsyncFnOnce(MutexGuard<'static, Rig>)) {
    RUNTIME.block_on(async {
        let rig = RIG.get_or_init(Rig::start).await.lock().await;
        rig.mas.clear_faults();
        test(rig).await;
    })
}

impl Rig {
    async fn start() -> Mutex<Self> {
        let options = Options {
            secret: SECRET.to_owned(),
            keep_requests: KEEP_INTROSPECTIONS,
            ..Options::default()
        };
        let mas = Mas::start(options).await.expect("a free port");
        let synapse = Synapse::start(SERVER_NAME, mas.addr(), SECRET).await;
        for user in ["alice", "bob"] {
            synapse.provision_user(user).await;
            synapse.upsert_device(user, &device(user)).await;
        }
        for user in ["bridge_1", "bridge_2"] {
            synapse.register_bridge_user(user).await;
        }
        synapse.upsert_device("bridge_1", "DEVB1").await;
        Mutex::new(Self { mas, synapse })
    }

    /// An Envoy with the module in front of Synapse.
    pub async fn gateway(&self) -> Gateway {
        let recorder = Recorder::start(self.synapse.addr()).await;
        let envoy = Envoy::builder()
            .plugin(json!({
                "server_name": SERVER_NAME,
                "introspection": {"cluster": "mas", "credential": {"bearer": {"value": SECRET}}},
                "unrecognized_tokens": "introspect",
                "appservice_tokens": [sha256_hex(AS_TOKEN)],
            }))
            .homeserver(recorder.addr())
            .mas(self.mas.addr())
            .start()
            .await;
        Gateway { envoy, recorder }
    }

    /// Makes `token` a token of `user`, on the device that this user has.
    pub fn give_token(&self, token: &str, user: &str) {
        self.mas
            .insert(token, Session::access(user, &device(user)).permanent());
    }

    /// The introspections since there were `before` of them.
    ///
    /// # Panics
    ///
    /// If there were more than MAS keeps.
    pub fn introspections_since(&self, before: u64) -> Vec<SeenRequest> {
        let new = usize::try_from(self.mas.total_calls() - before).expect("a small number");
        assert!(new <= KEEP_INTROSPECTIONS, "{new} introspections");
        let mut kept = self.mas.requests();
        kept.split_off(kept.len() - new)
    }

    /// The tokens that the edge and Synapse introspected since there were `before` introspections.
    pub fn asked_since(&self, before: u64) -> Asked {
        let mut asked = Asked::default();
        for request in self.introspections_since(before) {
            let by = if is_from_synapse(&request) {
                &mut asked.by_synapse
            } else {
                &mut asked.by_edge
            };
            by.push(token(&request));
        }
        asked
    }
}

/// The only device of the user `localpart`.
pub fn device(localpart: &str) -> String {
    format!("{}PHONE", localpart.to_ascii_uppercase())
}

/// The localpart of a user id.
pub fn localpart(user_id: &str) -> &str {
    user_id
        .strip_prefix('@')
        .and_then(|user| user.split(':').next())
        .expect("@localpart:server_name")
}

/// Tokens introspected, by whom, in order.
#[derive(Debug, Default)]
pub struct Asked {
    /// By the module.
    pub by_edge: Vec<String>,
    /// By Synapse.
    pub by_synapse: Vec<String>,
}

/// An Envoy with the module, and what it lets through to Synapse.
pub struct Gateway {
    /// The Envoy.
    pub envoy: Envoy,
    /// Between Envoy and Synapse.
    pub recorder: Recorder,
}

impl Gateway {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.envoy.addr()
    }
}

/// Whether Synapse asks; the module sends no `User-Agent`.
pub fn is_from_synapse(request: &SeenRequest) -> bool {
    request
        .header("user-agent")
        .is_some_and(|agent| agent.starts_with(b"Synapse/"))
}

/// The token that an introspection is about.
pub fn token(request: &SeenRequest) -> String {
    let token = form_urlencoded::parse(&request.body).find(|(name, _)| name == "token");
    token.expect("an introspection has a token").1.into_owned()
}

/// The digest of `text`, as `appservice_tokens` takes it.
pub fn sha256_hex(text: &str) -> String {
    Sha256::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
