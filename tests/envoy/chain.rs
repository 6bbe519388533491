//! Two Envoys in a chain: the second asks the introspection listener of the first, and that asks MAS.

use std::time::Duration;

use serde_json::json;
use stand_in::mas::Session;
use tokio::time::Instant;

use super::{
    edge::{self, Edge, WHOAMI, assert_not_active, new_token},
    introspection_role::{self, INACTIVE, NAME, ask, comparable, introspect},
};
use crate::support::{
    envoy::Envoy,
    http::{self, Request, Response, within_limit},
};

const LIFETIME: &str = "x-matrix-edge-auth-lifetime";

/// How often the edge is asked.
const POLL: Duration = Duration::from_millis(20);

/// How long before the end of its token a client comes back.
const LAST: Duration = Duration::from_millis(100);

/// Lives in milliseconds that MAS rounds down. A number of seconds that was rounded twice on its way says too little of them.
const LIVES: [u64; 3] = [4_300, 4_400, 4_490];

/// The first Envoy with what it stands between, and the second.
struct Chain {
    first: Edge,
    second: Envoy,
}

impl Chain {
    async fn start() -> Self {
        let changes = || json!({"cache": {"ttl": "1h", "refresh_ahead": false}});
        let first = introspection_role::start(changes()).await;
        let second = Envoy::builder()
            .plugin(edge::plugin(changes()))
            .internal_listener(NAME, introspection_role::plugin(changes()), "mas")
            .homeserver(first.homeserver.addr())
            .mas(first.envoy.listener(NAME))
            .start()
            .await;
        Self { first, second }
    }

    /// A client's request to the second gateway.
    async fn whoami(&self, token: &str) -> Response {
        let request = Request::get(WHOAMI).bearer(token);
        http::send(self.second.addr(), &request).await
    }

    /// The homeserver's question to the second introspection listener.
    async fn introspect(&self, token: &str) -> Response {
        http::send(self.second.listener(NAME), &introspect(token)).await
    }
}

/// A token that both gateways keep an answer of.
struct Ending {
    token: String,
    /// Its end, or less than the time of a call to the stand-in before.
    end: Instant,
}

impl Ending {
    async fn start(chain: &Chain, life: u64) -> Self {
        let life = Duration::from_millis(life);
        let token = new_token("mat");
        let end = Instant::now() + life;
        let session = Session::access("alice", "PHONE").expires_in(life);
        chain.first.mas.insert(&token, session);
        assert_eq!(chain.first.whoami(&token).await.status, 200);
        assert_eq!(chain.whoami(&token).await.status, 200);
        let calls = chain.first.mas.calls(&token);
        assert_eq!(calls, 1, "the first Envoy has answered the second");
        Self { token, end }
    }

    /// Whether the token may have ended by now.
    fn has_ended(&self) -> bool {
        Instant::now() >= self.end
    }

    /// The `expires_in` that MAS would give now, or a little less.
    fn direct(&self) -> u64 {
        let left = self.end.saturating_duration_since(Instant::now());
        (left + Duration::from_millis(500)).as_secs()
    }
}

#[tokio::test]
async fn the_second_envoy_says_what_the_first_keeps() {
    let chain = Chain::start().await;
    let token = chain.first.alice();
    assert_eq!(chain.first.whoami(&token).await.status, 200);
    assert_eq!(chain.whoami(&token).await.status, 200);
    let direct = http::send(chain.first.mas.addr(), &introspect(&token)).await;
    assert_eq!(direct.header(LIFETIME), None);
    for response in [
        ask(&chain.first, &introspect(&token)).await,
        chain.introspect(&token).await,
    ] {
        assert_eq!(comparable(&response), comparable(&direct));
        let lifetime = response.header(LIFETIME).expect("the token expires");
        let (at_least, at_most) = lifetime.split_once('-').expect("two numbers");
        let [at_least, at_most] =
            [at_least, at_most].map(|number| -> u64 { number.parse().expect("milliseconds") });
        let told = response.json()["expires_in"].as_u64().expect("a number");
        assert!(
            (at_least..=at_most).contains(&(told * 1_000)),
            "{response:?}"
        );
    }
    assert_eq!(chain.first.mas.calls(&token), 2, "one of them by this test");
}

#[tokio::test]
async fn a_client_is_not_refused_by_the_second_envoy_before_its_token_ends() {
    let chain = &Chain::start().await;
    let check = |life| async move {
        let ending = Ending::start(chain, life).await;
        // A client that comes between has MAS asked, whose answer corrects all before.
        tokio::time::sleep_until(ending.end - LAST).await;
        let refused = async {
            loop {
                let response = chain.whoami(&ending.token).await;
                if response.status != 200 {
                    return response;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let response = within_limit("the token to end", refused).await;
        assert!(ending.has_ended(), "{life} ms: refused early");
        assert_not_active(&response);
    };
    tokio::join!(check(LIVES[0]), check(LIVES[1]), check(LIVES[2]));
    chain.first.assert_alive().await;
}

/// The homeserver counts from when it was told, and then refuses the token by itself.
#[tokio::test]
async fn the_homeserver_is_told_by_the_second_envoy_what_mas_itself_would_say() {
    let chain = &Chain::start().await;
    let check = |life| async move {
        let ending = Ending::start(chain, life).await;
        let ended = async {
            loop {
                let response = chain.introspect(&ending.token).await;
                if response.text() == INACTIVE {
                    return;
                }
                let said = response.json();
                let told = said["expires_in"].as_u64().expect("a number");
                assert!(told >= ending.direct(), "{life} ms: {said}");
                tokio::time::sleep(POLL).await;
            }
        };
        within_limit("the token to end", ended).await;
        assert!(ending.has_ended(), "{life} ms: called inactive early");
    };
    tokio::join!(check(LIVES[0]), check(LIVES[1]), check(LIVES[2]));
}
