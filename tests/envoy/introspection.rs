//! The introspection request as MAS receives it (RFC 7662, section 2.1), and the three ways to a credential.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    mas::{Client, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_SECRET, Options, Session},
};

use super::edge::{Edge, WHOAMI, assert_no_verdict, assert_not_active, values};
use crate::support::{
    envoy::{Builder, bootstrap},
    http::{Request, within_limit},
};

#[tokio::test]
async fn mas_receives_what_synapse_sends() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    edge.whoami(&token).await;
    let seen = only(edge.mas.requests());
    assert_eq!(
        (&*seen.method, &*seen.target),
        ("POST", "/oauth2/introspect")
    );
    for (name, value) in [
        ("host", "auth.example.org"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept", "application/json"),
        ("x-mas-supports-device-id", "1"),
        ("authorization", &format!("Bearer {DEFAULT_SECRET}")),
    ] {
        assert_eq!(values(&seen, name), [value], "{name}");
    }
    assert_eq!(
        text(&seen),
        format!("token={token}&token_type_hint=access_token")
    );
}

#[tokio::test]
async fn the_authority_is_the_cluster_unless_configured() {
    let edge = Edge::start(json!({"introspection": {"authority": "auth.example.org:8443"}})).await;
    edge.whoami(&edge.alice()).await;
    assert_eq!(
        values(&only(edge.mas.requests()), "host"),
        ["auth.example.org:8443"]
    );

    let changes = json!({"introspection": {"credential": {"bearer": {"value": DEFAULT_SECRET}}}});
    let edge = Edge::start_with(changes, Options::default(), |builder| {
        builder.bootstrap(|config| {
            let plugin = bootstrap::plugin(bootstrap::http_manager(config));
            let text = plugin["configuration"]["value"]
                .as_str()
                .expect("the configuration");
            let mut own: Value = serde_json::from_str(text).expect("the configuration is JSON");
            own["introspection"]
                .as_object_mut()
                .expect("an object")
                .remove("authority");
            plugin["configuration"]["value"] = own.to_string().into();
        })
    })
    .await;
    edge.whoami(&edge.alice()).await;
    assert_eq!(values(&only(edge.mas.requests()), "host"), ["mas"]);
}

#[tokio::test]
async fn only_trace_headers_of_the_client_reach_mas() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            bootstrap::http_manager(config)["preserve_external_request_id"] = true.into();
        })
    })
    .await;
    let trace = [
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("tracestate", "vendor=value"),
        ("x-request-id", "2b6d1e0c-6c0b-4d2e-8c88-000000000001"),
    ];
    let mut request = Request::get(WHOAMI).bearer(&edge.alice());
    for (name, value) in trace {
        request = request.header(name, value);
    }
    request = request
        .header("Cookie", "a=b")
        .header("X-Secret", "s")
        .header("User-Agent", "client");
    edge.pass(request).await;
    let seen = only(edge.mas.requests());
    for (name, value) in trace {
        assert_eq!(values(&seen, name), [value], "{name}");
    }
    for name in ["cookie", "x-secret", "user-agent", "x-forwarded-for"] {
        assert!(values(&seen, name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn the_token_is_form_encoded_so_that_it_stays_one_field() {
    let edge = Edge::start(json!({"unrecognized_tokens": "introspect"})).await;
    for (in_query, token, form) in [
        (
            "A%26token_type_hint%3Drefresh_token",
            "A&token_type_hint=refresh_token",
            "A%26token_type_hint%3Drefresh_token",
        ),
        ("a+b%2Bc", "a b+c", "a+b%2Bc"),
        ("100%25%3B%23%2F%3F", "100%;#/?", "100%25%3B%23%2F%3F"),
        ("~._-*'()!", "~._-*'()!", "~._-%2A%27%28%29%21"),
        ("%zz%4", "%zz%4", "%25zz%254"),
        ("syt_%22%5C%3C%3E", "syt_\"\\<>", "syt_%22%5C%3C%3E"),
    ] {
        edge.mas.insert(token, Session::access("alice", "PHONE"));
        edge.pass(Request::get(format!("{WHOAMI}?access_token={in_query}")))
            .await;
        assert_eq!(edge.mas.calls(token), 1, "{token}");
        let seen = edge.mas.requests().pop().expect("a request");
        assert_eq!(
            text(&seen),
            format!("token={form}&token_type_hint=access_token")
        );
    }
    edge.mas.insert("A,x", Session::access("alice", "PHONE"));
    edge.pass(Request::get(WHOAMI).bearer("A,x")).await;
    assert_eq!(edge.mas.calls("A,x"), 1);
}

#[tokio::test]
async fn a_bearer_secret_can_come_from_the_environment() {
    let changes = introspection(json!({"bearer": {"env": "MAS_SECRET"}}));
    let options = Options {
        secret: "from the environment".to_owned(),
        ..Options::default()
    };
    let edge = Edge::start_with(changes, options, |builder| {
        builder.env("MAS_SECRET", "from the environment")
    })
    .await;
    edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
}

#[tokio::test]
async fn a_client_can_authenticate_with_its_own_secret() {
    for secret in [
        json!({"value": DEFAULT_CLIENT_SECRET}),
        json!({"env": "CLIENT_SECRET"}),
    ] {
        let changes = introspection(
            json!({"basic": {"client_id": DEFAULT_CLIENT_ID, "client_secret": secret}}),
        );
        let edge = Edge::start_with(changes, Options::default(), |builder| {
            builder.env("CLIENT_SECRET", DEFAULT_CLIENT_SECRET)
        })
        .await;
        edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
        let seen = only(edge.mas.requests());
        assert_eq!(
            values(&seen, "authorization"),
            [basic(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)]
        );
    }
}

/// MAS compares the bytes of the pair. RFC 6749 would have both halves form-encoded, which changes every character
/// of a secret that is not a letter, a digit or one of `-._~`.
#[tokio::test]
async fn a_clients_secret_may_hold_any_visible_character() {
    for secret in ["n0Tq+3u/9mZ2yVQ1==", r#"a b:%41&"\~"#] {
        let options = Options {
            clients: vec![Client::basic(DEFAULT_CLIENT_ID, secret)],
            ..Options::default()
        };
        let credential =
            json!({"client_id": DEFAULT_CLIENT_ID, "client_secret": {"value": secret}});
        let changes = introspection(json!({"basic": credential}));
        let edge = Edge::start_with(changes, options, |builder| builder).await;
        edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
    }
}

/// Two clients of one MAS, so that it takes the old and the new credential at the same time.
#[tokio::test]
async fn an_injected_credential_is_rotated_while_requests_run() {
    let credential = |client: &str| basic(client, &format!("secret-of-{client}"));
    let clients =
        ["OLD", "NEW"].map(|client| Client::basic(client, &format!("secret-of-{client}")));
    let options = Options {
        clients: clients.into(),
        ..Options::default()
    };
    let (edge, secret) = start_with_injected_credential(options, &credential("OLD")).await;
    let sent = |edge: &Edge| {
        let sent = |seen: &SeenRequest| values(seen, "authorization").join("|");
        edge.mas.requests().iter().map(sent).collect::<Vec<_>>()
    };

    let done = AtomicBool::new(false);
    let client = || async {
        while !done.load(Ordering::Relaxed) {
            let response = edge.whoami(&edge.alice()).await;
            assert_eq!(response.status, 200, "{response:?}");
        }
    };
    let rotation = async {
        edge.wait_for_calls(50).await;
        secret.replace(&credential("NEW"));
        let rotated = async {
            while sent(&edge).last() != Some(&credential("NEW")) {
                edge.wait_for_calls(edge.mas.total_calls() + 1).await;
            }
            edge.wait_for_calls(edge.mas.total_calls() + 50).await;
        };
        within_limit("MAS to see the new credential", rotated).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(client(), client(), client(), client(), rotation);

    let credentials = sent(&edge);
    assert!(
        credentials
            .iter()
            .take(50)
            .all(|sent| *sent == credential("OLD"))
    );
    assert!(
        credentials
            .iter()
            .rev()
            .take(20)
            .all(|sent| *sent == credential("NEW"))
    );
}

/// MAS knows one shared secret at a time, so there is a moment in which it and Envoy disagree.
#[tokio::test]
async fn while_mas_and_envoy_disagree_about_the_secret_nobody_is_logged_out() {
    let (edge, secret) =
        start_with_injected_credential(Options::default(), &format!("Bearer {DEFAULT_SECRET}"))
            .await;
    let token = edge.alice();
    edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
    edge.mas.set_secret("rotated");
    assert_no_verdict(&edge.whoami(&token).await);
    secret.replace("Bearer rotated");
    let answered = within_limit("Envoy to use the new secret", async {
        loop {
            let response = edge.whoami(&token).await;
            if response.status == 200 {
                return response;
            }
            assert_no_verdict(&response);
        }
    });
    answered.await;
    assert_not_active(&edge.whoami(&super::edge::new_token("mat")).await);
}

#[tokio::test]
async fn a_missing_injected_credential_is_no_verdict() {
    let (edge, secret) = start_with_injected_credential(Options::default(), "").await;
    assert_no_verdict(&edge.whoami(&edge.alice()).await);
    assert_eq!(edge.mas.total_calls(), 0);
    secret.replace(&format!("Bearer {DEFAULT_SECRET}"));
    let token = edge.alice();
    within_limit("Envoy to read the secret", async {
        while edge.whoami(&token).await.status != 200 {}
    })
    .await;
    edge.assert_alive().await;
}

/// A secret in a file that Envoy watches.
pub struct SecretFile(tempfile::TempDir);

impl SecretFile {
    pub fn new(secret: &str) -> Self {
        let file = Self(tempfile::tempdir().expect("a temporary directory"));
        file.replace(secret);
        let resource = json!({"resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "mas-credential",
            "generic_secret": {"secret": {
                "filename": file.dir().join("secret"),
                "watched_directory": {"path": file.dir()},
            }},
        }]});
        std::fs::write(file.sds(), resource.to_string()).expect("our own directory");
        file
    }

    /// The file in which Envoy finds where the secret is.
    pub fn sds(&self) -> PathBuf {
        self.dir().join("sds.json")
    }

    /// Atomically, as Envoy wants it: it watches for a file moved into place.
    fn replace(&self, secret: &str) {
        let new = self.dir().join("new");
        std::fs::write(&new, secret).expect("our own directory");
        std::fs::rename(new, self.dir().join("secret")).expect("our own directory");
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }
}

/// Envoy adds `secret` to the requests of the cluster `mas`; the module knows none.
async fn start_with_injected_credential(options: Options, secret: &str) -> (Edge, SecretFile) {
    start_with_injected(options, secret, |builder| builder).await
}

/// The same with this change to how Envoy starts.
pub async fn start_with_injected(
    options: Options,
    secret: &str,
    adapt: impl FnOnce(Builder) -> Builder,
) -> (Edge, SecretFile) {
    let secret = SecretFile::new(secret);
    let sds = secret.sds();
    let edge = Edge::start_with(
        introspection(json!({"injected": true})),
        options,
        |builder| adapt(builder).bootstrap(move |config| inject_credential(config, "mas", &sds)),
    )
    .await;
    (edge, secret)
}

/// Lets Envoy add the secret that `sds` leads to, to all that goes to `cluster`.
pub fn inject_credential(config: &mut Value, cluster: &str, sds: &Path) {
    config["node"] = json!({"id": "test", "cluster": "test"});
    bootstrap::cluster(config, cluster)["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [
                {
                    "name": "envoy.filters.http.credential_injector",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                        "overwrite": true,
                        "credential": {
                            "name": "envoy.http.injected_credentials.generic",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                                "header": "authorization",
                                "credential": {
                                    "name": "mas-credential",
                                    "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": sds}},
                                },
                            },
                        },
                    },
                },
                {
                    "name": "envoy.filters.http.upstream_codec",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
                    },
                },
            ],
        },
    });
}

fn introspection(credential: Value) -> Value {
    json!({"introspection": {"credential": credential}})
}

/// The `authorization` of a client.
pub fn basic(client: &str, secret: &str) -> String {
    format!(
        "Basic {}",
        Base64::encode_string(format!("{client}:{secret}").as_bytes())
    )
}

fn only(mut requests: Vec<SeenRequest>) -> SeenRequest {
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

fn text(seen: &SeenRequest) -> &str {
    std::str::from_utf8(&seen.body).expect("a form is text")
}
