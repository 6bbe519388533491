//! The tokens that requests are made with: of every kind that MAS, Synapse and the module tell apart.

use std::collections::BTreeSet;

use stand_in::mas::{Mas, Session, token};

use super::super::rig::device;
use crate::support::synapse::{AS_TOKEN, Synapse};

/// Users that Synapse has, each with one device.
pub const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
/// A user whose token has the admin scope.
const ADMIN: &str = "root";
/// A user whom MAS has locked.
const LOCKED: &str = "locked";
/// What the login API of old lets a client call its device.
const ODD_DEVICE: &str = "odd \"device\"; %7F,\u{e9}";

/// Strings that may be taken for tokens, and what MAS makes of their form.
const VECTORS: &str = include_str!("../../vectors/tokens.tsv");

/// A token that MAS issued.
struct Issued {
    token: String,
    session: Session,
    is_revoked: bool,
}

/// Makes the accounts and the bridge's users in Synapse, and the sessions in MAS. Returns every token to choose from.
pub async fn prepare(mas: &Mas, synapse: &Synapse) -> Vec<String> {
    for user in USERS.into_iter().chain([ADMIN, LOCKED]) {
        synapse.provision_user(user).await;
        synapse.upsert_device(user, &device(user)).await;
    }
    synapse.upsert_device("dave", ODD_DEVICE).await;
    for user in ["bridge_1", "bridge_2"] {
        synapse.register_bridge_user(user).await;
    }
    synapse.upsert_device("bridge_1", "DEVB1").await;

    // Those with which Synapse acts as a user are there more than once: most of what can go wrong needs one.
    let mut tokens = Vec::new();
    for Issued {
        token,
        session,
        is_revoked,
    } in issued()
    {
        mas.insert(&token, session);
        if is_revoked {
            mas.revoke_unannounced(&token);
        }
        tokens.push(token);
    }
    mas.lock_user(LOCKED);
    tokens.extend(not_issued());
    tokens.extend([AS_TOKEN; 6].map(str::to_owned));
    tokens
}

fn issued() -> Vec<Issued> {
    let mut issued = Vec::new();
    let mut issue = |token: String, session: Session| {
        issued.push(Issued {
            token,
            session: session.permanent(),
            is_revoked: false,
        });
    };
    for user in USERS {
        let device = device(user);
        for number in 0..2 {
            let name = format!("{user} {number}");
            issue(token("mat", &name), Session::access(user, &device));
            issue(token("mct", &name), Session::compat(user, &device));
            issue(token("mpt", &name), Session::personal(user, &device));
        }
        issue(
            format!("syt_{user}_legacy_0aBcDe"),
            Session::compat(user, &device),
        );
        issue(
            token("mat", &format!("{user} without a device")),
            Session::access(user, "").no_device(),
        );
    }
    issue(macaroon(), Session::compat("bob", &device("bob")));
    issue(
        token("mct", "odd device"),
        Session::compat("dave", ODD_DEVICE),
    );
    issue(
        token("mat", "admin"),
        Session::access(ADMIN, &device(ADMIN)).admin(),
    );
    issue(
        token("mat", "locked"),
        Session::access(LOCKED, &device(LOCKED)),
    );
    let alice = |scope: &str| Session::access("alice", "").scope(scope);
    for (name, scope) in [
        ("no api", "openid"),
        ("nothing", ""),
        ("guest", "urn:matrix:org.matrix.msc2967.client:api:guest"),
        (
            "stable",
            "urn:matrix:client:api:* urn:matrix:client:device:ALICEPHONE",
        ),
        (
            "two devices",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
        ),
        (
            "empty device",
            "urn:matrix:client:api:* urn:matrix:client:device:",
        ),
    ] {
        issue(token("mat", name), alice(scope));
    }
    issue(
        token("mat", "client"),
        Session::client_credentials("0000000000000000000000APP1"),
    );
    issue(
        token("mpt", "client with the api"),
        Session::client_credentials("0000000000000000000000APP1").grant("urn:matrix:client:api:*"),
    );
    issue(
        token("mat", "ghost"),
        Session::access("ghost", "GHOSTPHONE"),
    );
    issue(
        token("mat", "lost device"),
        Session::access("alice", "LOST"),
    );
    issue(
        token("mct", "long device"),
        Session::compat("alice", &"D".repeat(256)),
    );
    issued.push(Issued {
        token: token("mat", "expired"),
        session: Session::access("alice", &device("alice")).expired(),
        is_revoked: false,
    });
    for (prefix, user) in [("mat", "alice"), ("mct", "bob"), ("mpt", "carol")] {
        issued.push(Issued {
            token: token(prefix, "revoked"),
            session: Session::compat(user, &device(user)),
            is_revoked: true,
        });
    }
    issued
}

/// What no MAS issued: forged, cut, refresh tokens, other services' tokens.
fn not_issued() -> Vec<String> {
    let known: BTreeSet<_> = issued().into_iter().map(|issued| issued.token).collect();
    let vectors = VECTORS
        .lines()
        .skip(1)
        .filter_map(|line| line.split('\t').nth(1));
    let mut tokens: Vec<_> = vectors.map(|token| token.replace("\\n", "\n")).collect();
    tokens.extend([
        token("mat", "invented"),
        token("mct", "invented"),
        token("mar", "alice 0"),
        token("mcr", "alice 0"),
        token("mat", "alice 0").to_uppercase(),
        format!("{}0", token("mat", "alice 0")),
        "hs_secret_token".to_owned(),
        super::super::rig::SECRET.to_owned(),
        "x".repeat(3_000),
    ]);
    tokens.retain(|token| !known.contains(token));
    tokens
}

/// A token of Synapse's from before MAS.
fn macaroon() -> String {
    "MDAyMGxvY2F0aW9uIG1hdHJpeC5leGFtcGxlLm9y".to_owned()
}
