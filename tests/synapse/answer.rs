//! What a client makes of a response: all of it but what every hop writes anew.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use crate::support::http::{Response, within_limit};

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// Sends a request until the edge has a verdict. After a call that failed it leaves MAS alone about the token for a
/// second.
pub async fn until_answered(send: impl AsyncFn() -> Response) -> Response {
    within_limit("a verdict", async {
        loop {
            let response = send().await;
            if response.status != 503 {
                break response;
            }
            sleep(AGAIN).await;
        }
    })
    .await
}

/// Status, body, and the headers that Synapse means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// By lower-case name: the content type, the cache headers, `retry-after`, and those of CORS.
    pub headers: BTreeMap<String, String>,
    /// The body, without its framing.
    pub body: String,
}

impl Answer {
    /// The answer in a response: `headers` are names and values.
    pub fn new<'a>(
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
        body: &[u8],
    ) -> Self {
        let headers = headers
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| is_meant(name))
            .collect();
        Self {
            status,
            headers,
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// Adds what the edge adds to Synapse's 503: when to come back, readable by a page.
    pub fn say_when_to_come_back(&mut self) {
        self.headers
            .insert("retry-after".to_owned(), "1".to_owned());
        if let Some(names) = self.headers.get_mut("access-control-expose-headers") {
            names.push_str(", Retry-After");
        }
    }
}

impl From<&Response> for Answer {
    fn from(response: &Response) -> Self {
        let headers = response.headers.iter().map(|(name, value)| {
            (
                name.as_str(),
                std::str::from_utf8(value).expect("text in a header"),
            )
        });
        Self::new(response.status, headers, &response.body)
    }
}

/// Not: `date`, `server`, what frames the body, what Envoy adds.
fn is_meant(name: &str) -> bool {
    matches!(
        name,
        "allow"
            | "cache-control"
            | "content-type"
            | "location"
            | "retry-after"
            | "vary"
            | "www-authenticate"
    ) || name.starts_with("access-control-")
}
