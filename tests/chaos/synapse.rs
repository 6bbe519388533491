//! The homeserver asks whose a token is, at the listener of the introspection role.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use stand_in::mas::introspection_body;
use tokio::time::Instant;

use super::{
    faults::Secrets,
    ledger::Credential,
    phone::{Ending, Flow, Leaving, Parts, Phone},
    tally::Breach,
    world::World,
};

/// Asks until the run is over.
pub async fn ask_on(world: Arc<World>, listener: SocketAddr, secrets: Arc<Secrets>, number: u64) {
    let mut random = world.random(100 + number);
    let mut phone = Phone::new(listener, false);
    while !world.is_over() {
        world
            .pause(Duration::from_millis(random.u64(20..300)))
            .await;
        let Some(token) = world.any_token(&mut random) else {
            continue;
        };
        let request = Parts::new("POST", "/oauth2/introspect")
            .header("accept", "application/json")
            .header("x-mas-supports-device-id", "1")
            .header("authorization", format!("Bearer {}", secrets.homeserver()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Flow::whole(introspection_body(&token)));
        loop {
            let is_kept = phone.has_connection();
            let sent = Instant::now();
            world.tally.count("introspections by the homeserver");
            match phone.send(request.clone(), Leaving::Never).await {
                Ending::Answered(status, body) => {
                    judge(&world, &token, sent, status, &body);
                    break;
                }
                Ending::Cut(_) if is_kept => {}
                // MAS's own answer may be cut: the role passes on what it cannot answer.
                Ending::Cut(_) | Ending::Left => {
                    world.tally.count("introspection: cut");
                    break;
                }
                Ending::Unanswered => {
                    let case = format!("an introspection during {}", world.fault());
                    world.tally.breach(Breach::Unanswered, case);
                    break;
                }
            }
        }
    }
}

fn judge(world: &World, token: &str, sent: Instant, status: u16, body: &[u8]) {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let span = world.span_since(sent);
    let during = || world.fault();
    match (status, json["active"].as_bool()) {
        (200, Some(true)) => {
            world.tally.count("introspection: active");
            let judged = world.ledger().judge_acceptance(token, span).map(|held| {
                let is_its = json["username"] == *held.user
                    && (json["device_id"] == *held.device
                        || json["scope"]
                            .as_str()
                            .is_some_and(|scope| scope.contains(&format!(":{}", held.device))));
                (is_its, held.user.clone())
            });
            match judged {
                Ok((true, _)) => {}
                Ok((false, user)) => {
                    let case = format!("{user}'s token is {json} during {}", during());
                    world.tally.breach(Breach::WrongIdentity, case);
                }
                Err(why) => {
                    let case = format!("`active: true` during {}: {why}", during());
                    world.tally.breach(Breach::Unverified, case);
                }
            }
        }
        (200, Some(false)) => {
            world.tally.count("introspection: inactive");
            let credential = Credential::Issued(token.to_owned());
            if let Err(why) = world.ledger().judge_refusal(&credential, span) {
                let case = format!("`active: false` during {}: {why}", during());
                world.tally.breach(Breach::Wrong401, case);
            }
        }
        _ => world
            .tally
            .count(format!("introspection: no verdict ({status})")),
    }
}
