//! A real Synapse accepts the calls of the stand-in MAS, and does what they say.
//!
//! All but `reactivate_user`: this Synapse answers 500 to it as long as its database is a new SQLite.

use stand_in::mas::{Mas, Options, ProvisioningCall, Session};

use super::rig::{SECRET, SERVER_NAME};
use crate::support::{
    http::{self, Request},
    synapse::Synapse,
};

#[tokio::test]
async fn synapse_takes_its_accounts_from_the_stand_in() {
    let mas = Mas::start(Options {
        secret: SECRET.to_owned(),
        ..Options::default()
    })
    .await
    .expect("a free port");
    let synapse = Synapse::start(SERVER_NAME, mas.addr(), SECRET).await;
    mas.set_homeserver(synapse.addr());
    for token in ["phone", "tablet"] {
        mas.insert(token, Session::access("carol", token).permanent());
    }
    mas.provision_user("carol");
    mas.wait_until_provisioned().await;
    // From here on Synapse's own cache says that both are active.
    for token in ["phone", "tablet"] {
        assert_eq!(whoami(&synapse, token).await, 200, "{token}");
    }

    mas.revoke("phone");
    mas.wait_until_provisioned().await;
    assert_eq!(whoami(&synapse, "phone").await, 401, "its device is gone");
    assert_eq!(whoami(&synapse, "tablet").await, 200);

    // A login that takes over a device that Synapse has.
    let login = Session::compat("carol", "tablet").display_name("Carol's tablet");
    mas.compat_login("tablet-again", login);
    mas.wait_until_provisioned().await;
    assert_eq!(whoami(&synapse, "tablet-again").await, 200);

    mas.lock_user("carol");
    mas.wait_until_provisioned().await;
    // Synapse only takes note: its cache of introspections still says active.
    assert_eq!(whoami(&synapse, "tablet").await, 200);
    mas.unlock_user("carol");
    mas.upsert_device("carol", "laptop");
    mas.delete_device("carol", "laptop");
    mas.wait_until_provisioned().await;
    assert_eq!(whoami(&synapse, "tablet").await, 200);

    mas.deactivate_user("carol");
    mas.wait_until_provisioned().await;
    assert_eq!(whoami(&synapse, "tablet").await, 401);

    let accepted = |call: &ProvisioningCall| matches!(call.status, Some(200 | 201 | 204));
    let calls = mas.provisioning();
    assert!(calls.iter().all(accepted), "{calls:?}");

    assert!(mas.query_user("carol").await);
    assert!(!mas.query_user("nobody").await);
    assert_eq!(mas.is_localpart_available("carol").await, Some(false));
    assert_eq!(mas.is_localpart_available("nobody").await, Some(true));
}

async fn whoami(synapse: &Synapse, token: &str) -> u16 {
    let request = Request::get("/_matrix/client/v3/account/whoami").bearer(token);
    http::send(synapse.addr(), &request).await.status
}
