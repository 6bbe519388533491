//! What a client gets whose token nobody has seen, while connections to MAS are refused.

use std::{net::SocketAddr, time::Instant};

use tokio::net::TcpSocket;

use super::contender::Contender;
use crate::{
    support::http::{self, Request},
    tokens,
};

/// An address at which connections are refused, for as long as this is kept.
pub struct Outage {
    pub addr: SocketAddr,
    _socket: TcpSocket,
}

impl Outage {
    pub fn begin() -> Self {
        // Bound and not listening: nobody else can take the port.
        let socket = TcpSocket::new_v4().expect("a socket");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(free).expect("a free port");
        Self {
            addr: socket.local_addr().expect("a bound socket"),
            _socket: socket,
        }
    }
}

/// Asks each of them, whose MAS is down.
pub async fn what_clients_get(contenders: &[Contender]) {
    println!(
        "\n| MAS is down, an unproven token | status | errcode | Content-Type | Retry-After | after, ms |"
    );
    println!("|---|--:|---|---|---|--:|");
    let token = &tokens("outage", 1)[0];
    for contender in contenders.iter().filter(|contender| contender.asks_mas()) {
        let request = Request::get("/_matrix/client/v3/account/whoami").bearer(token);
        let begun = Instant::now();
        let response = http::send(contender.addrs.http1, &request).await;
        let took = begun.elapsed();
        let json: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
        let code = json.as_ref().and_then(|json| json["errcode"].as_str());
        println!(
            "| {} | {} | {} | {} | {} | {:.0} |",
            contender.name,
            response.status,
            code.map_or("none".to_owned(), |code| format!("`{code}`")),
            response.header("content-type").unwrap_or("none"),
            response.header("retry-after").unwrap_or("none"),
            took.as_secs_f64() * 1e3,
        );
    }
}
