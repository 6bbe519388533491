//! Many requests with one token that nobody has seen, at the same moment: how many calls to MAS each server makes of them.
//!
//! MAS takes half a second, so that all requests are there before its first answer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Contender, Protocol, contender::MODULE, goal};
use crate::{
    client::{self, Connection},
    http2, tokens,
    upstream::Mas,
};

const DELAY: Duration = Duration::from_millis(500);
const HERDS: [usize; 2] = [35, 1_000];

/// What became of a herd.
struct Outcome {
    calls: u64,
    statuses: Vec<u16>,
    took: Duration,
}

pub async fn count(mas: &Mas, contenders: &[Contender], workers: u32) {
    mas.delay(DELAY);
    let plural = if workers == 1 { "" } else { "s" };
    println!(
        "\n| one unproven token, {workers} worker{plural} | protocol | requests at once | calls to MAS | 200 | other answers | until the last answer, ms |"
    );
    println!("|---|---|--:|--:|--:|---|--:|");
    let mut most = 0;
    for contender in contenders.iter().filter(|contender| contender.asks_mas()) {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for number in HERDS {
                let outcome = herd(mas, contender, protocol, number).await;
                print(contender, protocol, number, &outcome);
                if contender.name == MODULE {
                    most = most.max(outcome.calls);
                }
            }
        }
    }
    mas.delay(Duration::ZERO);
    goal("calls to MAS for any herd at the module", most as f64, 1.0);
}

async fn herd(mas: &Mas, contender: &Contender, protocol: Protocol, number: usize) -> Outcome {
    let name = format!(
        "herd {} {} {number} {}",
        contender.name,
        protocol.name(),
        mas.calls()
    );
    let token = tokens(&name, 1);
    mas.activate(&token);
    let addr = protocol.of(contender.addrs);
    let before = mas.calls();
    let (statuses, took) = match protocol {
        Protocol::Http1 => over_http1(addr, &token[0], number),
        Protocol::Http2 => {
            let mut client = http2::Client::open(addr).await;
            let begun = Instant::now();
            (client.herd(&token[0], number).await, begun.elapsed())
        }
    };
    Outcome {
        calls: mas.calls() - before,
        statuses,
        took,
    }
}

/// Each request on a connection of its own.
fn over_http1(addr: SocketAddr, token: &str, number: usize) -> (Vec<u16>, Duration) {
    let request = client::whoami(token);
    let mut connections: Vec<_> = (0..number).map(|_| Connection::open(addr)).collect();
    let begun = Instant::now();
    for connection in &mut connections {
        connection.send(&request);
    }
    let statuses = connections.iter_mut().map(Connection::answer).collect();
    (statuses, begun.elapsed())
}

fn print(contender: &Contender, protocol: Protocol, number: usize, outcome: &Outcome) {
    let mut others: Vec<u16> = outcome.statuses.clone();
    others.retain(|status| *status != 200);
    let passed = outcome.statuses.len() - others.len();
    others.sort_unstable();
    let others: Vec<String> = others
        .chunk_by(|one, next| one == next)
        .map(|same| format!("{} times {}", same.len(), same[0]))
        .collect();
    println!(
        "| {} | {} | {number} | {} | {passed} | {} | {:.0} |",
        contender.name,
        protocol.name(),
        outcome.calls,
        others.join(", "),
        outcome.took.as_secs_f64() * 1e3,
    );
}
