//! What an Envoy without the module does under the same flood: how much of a slow answer is the machine's.
//!
//! It answers attackers with the very bytes that the module would have answered with, and knows them by their
//! `User-Agent`.

use serde_json::{Value, json};

use super::{
    Gateway, client,
    support::{
        envoy::{Envoy, bootstrap},
        http::{self, Request},
    },
    upstream::Mas,
};

/// The module's answer to an attacker.
pub struct Refusal {
    pub status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Refusal {
    /// Has the module refuse this token.
    pub async fn of(gateway: &Gateway, token: &str) -> Self {
        let request = Request::get("/_matrix/client/v3/account/whoami").bearer(token);
        let response = http::send(gateway.addr(), &request).await;
        // The others are Envoy's own, and it adds them to any answer.
        let is_ours = |name: &str| !["content-length", "date", "server"].contains(&name);
        let headers = response.headers.iter().filter(|(name, _)| is_ours(name));
        Self {
            status: response.status,
            headers: headers
                .map(|(name, value)| {
                    let value = String::from_utf8(value.clone()).expect("headers are text");
                    (name.clone(), value)
                })
                .collect(),
            body: response.text().to_owned(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "HTTP/1.1 {} Refused\r\n{headers}content-length: {}\r\n\r\n{}",
            self.status,
            self.body.len(),
            self.body
        )
        .into_bytes()
    }

    fn action(&self) -> Value {
        let headers: Vec<Value> = self
            .headers
            .iter()
            .map(|(name, value)| {
                json!({
                    "header": {"key": name, "value": value},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                })
            })
            .collect();
        json!({
            "direct_response": {"status": self.status, "body": {"inline_string": self.body}},
            "response_headers_to_add": headers,
        })
    }
}

/// Refuses attackers by itself.
pub async fn at_once(workers: u32, refusal: &Refusal) -> Gateway {
    start(Envoy::builder().concurrency(workers), refusal.action()).await
}

/// Asks MAS about every request of an attacker, and passes on what it says.
pub async fn after_a_call(mas: &Mas, workers: u32, refusal: &Refusal) -> Gateway {
    mas.refuse_with(refusal);
    let builder = Envoy::builder().concurrency(workers).mas(mas.addr());
    start(builder, json!({"route": {"cluster": "mas"}})).await
}

async fn start(builder: super::Builder, mut refuse: Value) -> Gateway {
    refuse["match"] = json!({
        "prefix": "/",
        "headers": [{"name": "user-agent", "string_match": {"exact": client::ATTACKER}}],
    });
    let builder = builder.bootstrap(|config| {
        let manager = bootstrap::http_manager(config);
        let router = bootstrap::http_filters(manager)
            .last_mut()
            .expect("a router");
        // Headers that the module's answers do not have.
        router["typed_config"]["suppress_envoy_headers"] = true.into();
        manager["route_config"]["virtual_hosts"][0]["routes"]
            .as_array_mut()
            .expect("a list")
            .insert(0, refuse);
    });
    Gateway::of(builder).await
}
