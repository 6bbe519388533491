//! A page on another origin, in a real browser: it reads every refusal of the edge, and its pre-flights pass. A reply that
//! the browser keeps from the page looks like a network error to it, and not like the end of a session or a short wait.

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{Fault, Session, token},
};

use super::rig::{Rig, with_rig};
use crate::support::browser::Browser;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[test]
fn a_page_of_another_origin_reads_every_refusal() {
    with_rig(async |rig| {
        let budget = json!({"per_source": 1, "window": "1m"});
        let _edge = rig
            .edge(json!({"unknown_token_budget": budget, "cache": {"negative_ttl": "0s"}}))
            .await;
        let page = Page::open(&rig).await;
        let alice = page.user(&rig, "page_alice").await;
        let unknown = token("mat", "page, unknown");
        // While the budget lasts: who is over it cannot bring a token that the edge does not know.
        let whoami = page.fetch("GET", WHOAMI, Some(&alice), None).await;
        assert_eq!(whoami["status"], 200, "{whoami}");

        rig.mas.fault(Fault::close());
        let cold = page.user(&rig, "page_bob").await;
        page.assert(&Get(WHOAMI, Some(&cold)), 503, "M_UNKNOWN", Some(1..=1))
            .await;
        rig.mas.clear_faults();

        // Without a header of its own a page's GET needs no pre-flight.
        page.assert(&Get(WHOAMI, None), 401, "M_MISSING_TOKEN", None)
            .await;
        page.assert(&Get(WHOAMI, Some(&unknown)), 401, "M_UNKNOWN_TOKEN", None)
            .await;
        let admin = "/_synapse/admin/v1/rooms";
        page.assert(&Get(admin, Some(&alice)), 403, "M_FORBIDDEN", None)
            .await;
        let internal = "/_synapse/mas/provision_user";
        page.assert(&Get(internal, None), 404, "M_UNRECOGNIZED", None)
            .await;

        let over = token("mat", "page, over the budget");
        let limited = page
            .assert(
                &Get(WHOAMI, Some(&over)),
                429,
                "M_LIMIT_EXCEEDED",
                Some(1..=60),
            )
            .await;
        let milliseconds = limited["retry_after_ms"].as_u64();
        assert!(
            milliseconds.is_some_and(|n| (1..=60_000).contains(&n)),
            "{limited}"
        );
    });
}

#[test]
fn pre_flights_of_every_method_pass() {
    with_rig(async |rig| {
        let _edge = rig.edge(json!({})).await;
        let page = Page::open(&rig).await;
        let alice = page.user(&rig, "page_carol").await;
        let profile = "/_matrix/client/v3/profile/@page_carol:example.org/displayname";
        let put = page
            .fetch(
                "PUT",
                profile,
                Some(&alice),
                Some(r#"{"displayname":"Carol"}"#),
            )
            .await;
        assert_eq!(put["status"], 200, "{put}");
        let get = page.fetch("GET", profile, Some(&alice), None).await;
        assert_eq!(get["body"]["displayname"], "Carol", "{get}");
        let rooms = "/_matrix/client/v3/createRoom";
        let post = page.fetch("POST", rooms, Some(&alice), Some("{}")).await;
        assert_eq!(post["status"], 200, "{post}");
        // It does not exist, as the homeserver says.
        let device = "/_matrix/client/v3/room_keys/version/1";
        let delete = page.fetch("DELETE", device, Some(&alice), None).await;
        assert_eq!(delete["status"], 404, "{delete}");
        assert_eq!(delete["body"]["errcode"], "M_NOT_FOUND", "{delete}");
    });
}

/// A page that an application's own server has sent.
struct Page {
    browser: Browser,
    edge: String,
    _server: Homeserver,
}

struct Get<'a>(&'a str, Option<&'a str>);

impl Page {
    async fn open(rig: &Rig) -> Self {
        let server = Homeserver::start_local().await.expect("a free port");
        let browser = Browser::open(&format!("http://{}/", server.addr())).await;
        let (edge, _server) = (rig.url(), server);
        Self {
            browser,
            edge,
            _server,
        }
    }

    /// A token of a new user.
    async fn user(&self, rig: &Rig, localpart: &str) -> String {
        rig.make_user(localpart).await;
        let device = "PAGE";
        rig.synapse.upsert_device(localpart, device).await;
        let token = token("mat", localpart);
        rig.mas.insert(&token, Session::access(localpart, device));
        token
    }

    /// What `fetch` shows the page.
    async fn fetch(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&str>,
    ) -> Value {
        let mut headers = json!({});
        if let Some(token) = token {
            headers["Authorization"] = format!("Bearer {token}").into();
        }
        if body.is_some() {
            headers["Content-Type"] = "application/json".into();
        }
        let request = json!({"method": method, "headers": headers, "body": body});
        let url = json!(format!("{}{path}", self.edge));
        let script = format!(
            r#"(async () => {{
                try {{
                    const response = await fetch({url}, {request});
                    return {{
                        status: response.status,
                        retry_after: response.headers.get("Retry-After"),
                        body: await response.json(),
                    }};
                }} catch (error) {{
                    return {{hidden: String(error)}};
                }}
            }})()"#
        );
        self.browser.run(&script).await
    }

    /// Checks what the page reads, and returns the body. `retry_after`: the seconds that it may be told to wait.
    async fn assert(
        &self,
        Get(path, token): &Get<'_>,
        status: u16,
        errcode: &str,
        retry_after: Option<std::ops::RangeInclusive<u64>>,
    ) -> Value {
        let mut seen = self.fetch("GET", path, *token, None).await;
        assert_eq!(seen["status"], status, "{path}: {seen}");
        assert_eq!(seen["body"]["errcode"], errcode, "{path}: {seen}");
        let told = seen["retry_after"].as_str();
        let told = told.map(|seconds| seconds.parse().expect("a number of seconds"));
        match retry_after {
            None => assert_eq!(told, None, "{path}: {seen}"),
            Some(expected) => assert!(
                told.is_some_and(|seconds| expected.contains(&seconds)),
                "{path}: {seen}"
            ),
        }
        seen["body"].take()
    }
}
