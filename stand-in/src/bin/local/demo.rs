//! The tokens of the local stack, and the commands that show what the gateway makes of them.

use std::time::Duration;

use stand_in::mas::{Mas, Session, token};

use crate::{
    Failure, StandInMas,
    bootstrap::{Bootstrap, Listener},
};

const GOOD: &str = "alice's phone";
const COMPAT: &str = "bob's old client";
const EXPIRED: &str = "an expired token";
const LOGGED_OUT: &str = "a logged-out token";
const UNKNOWN: &str = "a token that nobody has";

/// The sessions that the printed commands use.
pub(crate) fn insert_sessions(mas: &Mas) {
    let day = Duration::from_secs(24 * 60 * 60);
    insert(
        mas,
        "mat",
        GOOD,
        Session::access("alice", "PHONE").expires_in(day),
    );
    insert(mas, "mct", COMPAT, Session::compat("bob", "OLD CLIENT"));
    insert(
        mas,
        "mat",
        EXPIRED,
        Session::access("alice", "TABLET").expired(),
    );
    insert(
        mas,
        "mat",
        LOGGED_OUT,
        Session::access("alice", "LAPTOP").expires_in(day),
    );
    mas.revoke(&token("mat", LOGGED_OUT));
    mas.name(&token("mat", UNKNOWN), UNKNOWN);
}

fn insert(mas: &Mas, prefix: &str, name: &str, session: Session) {
    let token = token(prefix, name);
    mas.insert(&token, session);
    mas.name(&token, name);
}

/// Prints the commands, ready to paste.
pub(crate) fn print(
    bootstrap: &Bootstrap,
    mas: Option<&StandInMas>,
    homeserver_is_stand_in: bool,
) -> Result<(), Failure> {
    let gateway = bootstrap.listener(Listener::Gateway)?;
    let whoami = format!("http://{gateway}/_matrix/client/v3/account/whoami");
    let try_out = |what: &str, token: &str| {
        println!("\n# {what}\ncurl -i {whoami} -H 'Authorization: Bearer {token}'")
    };

    println!(
        "\nThe gateway is ready: http://{gateway}. Ctrl-C ends everything. To try it, in another terminal:"
    );
    let seen = if homeserver_is_stand_in {
        "200, and the identity headers as the homeserver saw them"
    } else {
        "200"
    };
    match mas {
        Some(mas) => {
            let good = token("mat", GOOD);
            try_out(&format!("A good token: {seen}"), &good);
            try_out(
                "The same again, from the cache: no new line `stand-in MAS: introspection` appears here",
                &good,
            );
            try_out(
                "A token of the legacy login API, whose device id has a space: it is percent-encoded",
                &token("mct", COMPAT),
            );
            try_out("An unknown token: 401", &token("mat", UNKNOWN));
            println!("\n# No token: 401\ncurl -i {whoami}");
            try_out("An expired one: 401", &token("mat", EXPIRED));
            try_out("A logged-out one: 401", &token("mat", LOGGED_OUT));
            print_roles(bootstrap, mas)?;
        }
        None => {
            println!("\n# A token of a logged-in client: {seen}; the second time from the cache");
            println!("curl -i {whoami} -H \"Authorization: Bearer $TOKEN\"");
            try_out("An unknown token: 401", &token("mat", UNKNOWN));
            println!("\n# No token: 401\ncurl -i {whoami}");
            println!(
                "\n# To let Synapse ask through the edge, and MAS tell the homeserver through it:"
            );
            println!(
                "#   matrix_authentication_service.endpoint (Synapse): http://{}/",
                bootstrap.listener(Listener::Introspection)?
            );
            println!(
                "#   matrix.endpoint (MAS): http://{}/",
                bootstrap.listener(Listener::Provisioning)?
            );
        }
    }
    println!("\n# The metrics");
    println!(
        "curl -s 'http://{}/stats/prometheus' | grep ^matrix_edge_auth",
        bootstrap.admin()?
    );
    if let Some(mas) = mas {
        let control = mas.control.addr();
        println!(
            "\n# The stand-in MAS counts, and fails on command: here 503 for every introspection, until told otherwise"
        );
        println!("curl -s http://{control}/calls");
        println!("curl -s http://{control}/faults -d '{{\"kind\":\"status\",\"status\":503}}'");
        println!("curl -s -X DELETE http://{control}/faults");
    }
    println!();
    Ok(())
}

/// What the two internal listeners are for.
fn print_roles(bootstrap: &Bootstrap, mas: &StandInMas) -> Result<(), Failure> {
    let control = mas.control.addr();
    println!(
        "\n# MAS locks alice and tells the homeserver, by way of the edge: her cached token is 401 at once"
    );
    println!("curl -s -X POST http://{control}/users/alice/lock");
    println!("\n# And unlocked again: 200 at once");
    println!("curl -s -X POST http://{control}/users/alice/unlock");
    println!(
        "\n# Synapse's own introspection, answered from the cache that the gateway has filled: `expires_in` counts down"
    );
    println!(
        "curl -s http://{}/oauth2/introspect -H 'Authorization: Bearer {}' -H 'X-MAS-Supports-Device-Id: 1' \\\n     \
         -d token_type_hint=access_token -d token={}",
        bootstrap.listener(Listener::Introspection)?,
        mas.secret,
        token("mat", GOOD)
    );
    Ok(())
}
