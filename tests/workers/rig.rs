//! What the tests share: a MAS, and a Synapse with workers that has its accounts there.

use std::sync::LazyLock;

use serde_json::{Value, json};
use stand_in::mas::{Mas, Options, Session};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, MutexGuard, OnceCell},
};

use crate::support::{
    envoy::{Builder, Envoy},
    switch::Switch,
    synapse::workers::Deployment,
};

/// The server name of the homeserver.
pub const SERVER_NAME: &str = "example.org";
/// The secret that MAS shares with Synapse and with the edge.
pub const SECRET: &str = "SharedSecretForMas";
/// How many users there are, each with one device.
pub const USERS: usize = 20;

/// Outlives the single test: MAS and Synapse are started once.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static RIG: OnceCell<Mutex<Rig>> = OnceCell::const_new();

/// A MAS and a Synapse.
pub struct Rig {
    /// The accounts.
    pub mas: Mas,
    /// Where Synapse asks MAS.
    pub to_mas: Switch,
    /// The homeserver.
    pub synapse: Deployment,
}

/// Runs a test that has the rig to itself. Synapse asks MAS directly when it starts.
pub fn with_rig(test: impl AsyncFnOnce(MutexGuard<'static, Rig>)) {
    RUNTIME.block_on(async {
        let rig = RIG.get_or_init(Rig::start).await.lock().await;
        rig.to_mas.lead_to(rig.mas.addr());
        test(rig).await;
    })
}

impl Rig {
    async fn start() -> Mutex<Self> {
        let options = Options {
            secret: SECRET.to_owned(),
            ..Options::default()
        };
        let mas = Mas::start(options).await.expect("a free port");
        let to_mas = Switch::start(mas.addr()).await;
        let synapse = Deployment::start(SERVER_NAME, to_mas.addr(), SECRET).await;
        for number in 0..USERS {
            let user = user(number);
            synapse.main.provision_user(&user).await;
            synapse.main.upsert_device(&user, &device(&user)).await;
        }
        Mutex::new(Self {
            mas,
            to_mas,
            synapse,
        })
    }

    /// An Envoy with the module in front of Synapse's main process, to be started.
    pub fn gateway(&self) -> Builder {
        Envoy::builder()
            .concurrency(2)
            .plugin(json!({"server_name": SERVER_NAME, "introspection": introspection()}))
            .homeserver(self.synapse.main.addr())
            .mas(self.mas.addr())
    }

    /// Makes `token` a token of the user with this number, counted round and round.
    pub fn give_token(&self, token: &str, number: usize) {
        let user = user(number % USERS);
        self.mas
            .insert(token, Session::access(&user, &device(&user)).permanent());
    }
}

/// How a listener with the module asks MAS.
pub fn introspection() -> Value {
    json!({"cluster": "mas", "credential": {"bearer": {"value": SECRET}}})
}

fn user(number: usize) -> String {
    format!("user{number}")
}

/// The only device of the user `localpart`.
fn device(localpart: &str) -> String {
    format!("{}PHONE", localpart.to_ascii_uppercase())
}
