//! What `make run` prints: where the page is, and the commands that show what the gateway makes of tokens.

use stand_in::page::{Member, Page};

use crate::{
    Failure, StandInMas,
    bootstrap::{Bootstrap, Listener},
};

/// Prints the commands, ready to paste.
pub(crate) fn print(
    bootstrap: &Bootstrap,
    mas: Option<(&StandInMas, &Page)>,
    homeserver_is_stand_in: bool,
) -> Result<(), Failure> {
    let gateway = bootstrap.listener(Listener::Gateway)?;
    let whoami = format!("http://{gateway}/_matrix/client/v3/account/whoami");
    let try_out = |what: &str, token: &str| {
        println!("\n# {what}\ncurl -i {whoami} -H 'Authorization: Bearer {token}'")
    };

    println!("\nThe gateway is ready: http://{gateway}. Ctrl-C ends everything.");
    match mas {
        Some((_, page)) => println!(
            "\n    Watch it, and press buttons:  http://{}/\n\nOr try it in another terminal:",
            page.addr()
        ),
        None => println!("To try it, in another terminal:"),
    }
    let seen = if homeserver_is_stand_in {
        "200, and the identity headers as the homeserver saw them"
    } else {
        "200"
    };
    match mas {
        Some((mas, page)) => {
            let token = |member| mas.cast.token(member);
            let good = token(Member::Alice);
            try_out(&format!("An active token: {seen}"), &good);
            try_out(
                "The same again, from the cache: no new line `stand-in MAS: introspection` appears here",
                &good,
            );
            try_out(
                "A compat token, whose device id has a space: it is percent-encoded",
                &token(Member::Bob),
            );
            try_out("An invented token: 401", &token(Member::Unknown));
            println!("\n# No token: 401\ncurl -i {whoami}");
            try_out("An expired one: 401", &token(Member::Expired));
            try_out("A logged-out one: 401", &token(Member::LoggedOut));
            print_roles(bootstrap, mas, page)?;
        }
        None => {
            println!("\n# A token of a logged-in client: {seen}; the second time from the cache");
            println!("curl -i {whoami} -H \"Authorization: Bearer $TOKEN\"");
            try_out("An invented token: 401", &Member::Unknown.first_token());
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
    println!("\n# The metrics that are not 0. They are up to a quarter of a second old");
    println!(
        "sleep 1; curl -s http://{}/stats/prometheus | grep -E '^matrix_edge_auth.*_total.* [1-9]'",
        bootstrap.admin()?
    );
    if let Some((_, page)) = mas {
        let control = page.addr();
        println!(
            "\n# The stand-in MAS counts, and fails on command: here 503 for every introspection, until told otherwise"
        );
        println!("curl -s http://{control}/calls; echo");
        println!("curl -s http://{control}/faults -d '{{\"kind\":\"status\",\"status\":503}}'");
        println!("curl -s -X DELETE http://{control}/faults");
    }
    println!();
    Ok(())
}

/// What the two internal listeners are for.
fn print_roles(bootstrap: &Bootstrap, mas: &StandInMas, page: &Page) -> Result<(), Failure> {
    let control = page.addr();
    println!(
        "\n# Synapse's own introspection, answered from the cache that the gateway has filled: `expires_in` counts down"
    );
    println!(
        "curl -s http://{}/oauth2/introspect -H 'Authorization: Bearer {}' -H 'X-MAS-Supports-Device-Id: 1' \\\n     \
         -d token_type_hint=access_token -d token={}",
        bootstrap.listener(Listener::Introspection)?,
        mas.secret,
        mas.cast.token(Member::Alice)
    );
    println!(
        "\n# MAS locks alice and tells the homeserver, by way of the edge: her cached token is 401 at once"
    );
    println!("curl -s -X POST http://{control}/users/alice/lock");
    println!("\n# And unlocked again: 200 at once");
    println!("curl -s -X POST http://{control}/users/alice/unlock");
    Ok(())
}
