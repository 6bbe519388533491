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

/// A token of Synapse's from before MAS.
const MACAROON: &str = "MDAyMGxvY2F0aW9uIG1hdHJpeC5leGFtcGxlLm9y";
/// Scopes of alice's.
const SCOPES: [(End, &str, &str); 6] = [
    (End::Useless, "no api", "openid"),
    (End::Useless, "nothing", ""),
    (
        End::Useless,
        "guest",
        "urn:matrix:org.matrix.msc2967.client:api:guest",
    ),
    (
        End::None,
        "stable",
        "urn:matrix:client:api:* urn:matrix:client:device:ALICEPHONE",
    ),
    (
        End::Useless,
        "two devices",
        "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
    ),
    (
        End::Useless,
        "empty device",
        "urn:matrix:client:api:* urn:matrix:client:device:",
    ),
];

/// Strings that may be taken for tokens, and what MAS makes of their form.
const VECTORS: &str = include_str!("../../vectors/tokens.tsv");

/// A token that MAS issued.
struct Issued {
    token: String,
    session: Session,
    end: End,
}

/// Why a token is of no use.
#[derive(Clone, Copy)]
enum End {
    /// It is of use.
    None,
    Revoked,
    /// It never was, or MAS knows why.
    Useless,
}

/// The tokens to choose from.
pub struct Tokens {
    /// Those with which Synapse acts as a user.
    pub live: Vec<String>,
    /// All others.
    pub dead: Vec<String>,
}

/// Makes the accounts and the bridge's users in Synapse, and the sessions in MAS.
pub async fn prepare(mas: &Mas, synapse: &Synapse) -> Tokens {
    for user in USERS.into_iter().chain([ADMIN, LOCKED]) {
        synapse.provision_user(user).await;
        synapse.upsert_device(user, &device(user)).await;
    }
    synapse.upsert_device("dave", ODD_DEVICE).await;
    for user in ["bridge_1", "bridge_2"] {
        synapse.register_bridge_user(user).await;
    }
    synapse.upsert_device("bridge_1", "DEVB1").await;

    let mut tokens = Tokens {
        live: vec![AS_TOKEN.to_owned(); 4],
        dead: not_issued(),
    };
    for issued in issued() {
        mas.insert(&issued.token, issued.session);
        match issued.end {
            End::None => tokens.live.push(issued.token),
            End::Revoked => {
                mas.revoke_unannounced(&issued.token);
                tokens.dead.push(issued.token);
            }
            End::Useless => tokens.dead.push(issued.token),
        }
    }
    mas.lock_user(LOCKED);
    tokens
}

fn issued() -> Vec<Issued> {
    let mut issued = Vec::new();
    let mut issue = |end, token: String, session: Session| {
        issued.push(Issued {
            token,
            session,
            end,
        });
    };
    for user in USERS {
        let device = device(user);
        let access = || Session::access(user, &device).permanent();
        for number in 0..2 {
            let name = format!("{user} {number}");
            issue(End::None, token("mat", &name), access());
            issue(
                End::None,
                token("mct", &name),
                Session::compat(user, &device),
            );
            issue(
                End::None,
                token("mpt", &name),
                Session::personal(user, &device),
            );
        }
        let legacy = format!("syt_{user}_legacy_0aBcDe");
        issue(End::None, legacy, Session::compat(user, &device));
        let name = format!("{user} without a device");
        issue(End::None, token("mat", &name), access().no_device());
        issue(
            End::Useless,
            token("mat", &format!("{user} expired")),
            access().expired(),
        );
        for prefix in ["mat", "mct", "mpt"] {
            issue(
                End::Revoked,
                token(prefix, &format!("{user} revoked")),
                access(),
            );
        }
    }
    issue(
        End::None,
        MACAROON.to_owned(),
        Session::compat("bob", &device("bob")),
    );
    issue(
        End::None,
        token("mct", "odd device"),
        Session::compat("dave", ODD_DEVICE),
    );
    let admin = Session::access(ADMIN, &device(ADMIN)).permanent().admin();
    issue(End::None, token("mat", "admin"), admin);
    let locked = Session::access(LOCKED, &device(LOCKED)).permanent();
    issue(End::Useless, token("mat", "locked"), locked);
    for (end, name, scope) in SCOPES {
        let session = Session::access("alice", "").permanent().scope(scope);
        issue(end, token("mat", name), session);
    }
    let client = || Session::client_credentials("0000000000000000000000APP1").permanent();
    issue(End::Useless, token("mat", "client"), client());
    issue(
        End::Useless,
        token("mpt", "client"),
        client().grant("urn:matrix:client:api:*"),
    );
    let ghost = Session::access("ghost", "GHOSTPHONE").permanent();
    issue(End::Useless, token("mat", "ghost"), ghost);
    let lost = Session::access("alice", "LOST").permanent();
    issue(End::Useless, token("mat", "lost device"), lost);
    let long = Session::compat("alice", &"D".repeat(256));
    issue(End::Useless, token("mct", "long device"), long);
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
