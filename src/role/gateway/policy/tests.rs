//! Each thing that a request may need, and each end that a verdict may lead to.

use serde_json::{Value, json};

use super::*;
use crate::{
    config::{self, AppserviceTokens},
    host::Fields,
    mas::introspection::{ActiveToken, ConnectionFault, InactiveAnswer},
    matrix::session_end::SessionEnd,
    role::gateway::recognized::Recognized,
    token::{TokenDigest, TokenSecret},
};

const TOKEN: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const REFRESH_TOKEN: &str = "syr_x";
const FORM: &str = "application/x-www-form-urlencoded";

/// Endpoints by what they need.
const REQUIRED: &str = "/_matrix/client/v3/account/whoami";
const OPTIONAL: &str = "/optional";
const ADMIN: &str = "/_synapse/admin/v1/rooms";
const UNKNOWN: &str = "/another/service";

/// The head of a request.
struct Head {
    method: &'static str,
    target: String,
    authorization: Option<String>,
    content_type: Option<&'static str>,
}

impl Head {
    fn get(target: &str) -> Self {
        Self {
            method: "GET",
            target: target.to_owned(),
            authorization: None,
            content_type: None,
        }
    }

    fn post(target: &str) -> Self {
        Self {
            method: "POST",
            ..Self::get(target)
        }
    }

    fn form(target: &str) -> Self {
        Self {
            content_type: Some(FORM),
            ..Self::post(target)
        }
    }

    fn authorization(self, value: &str) -> Self {
        Self {
            authorization: Some(value.to_owned()),
            ..self
        }
    }

    fn bearer(self, token: &str) -> Self {
        self.authorization(&format!("Bearer {token}"))
    }

    /// As the host hands it over.
    fn read(&self) -> RequestHead {
        let fields = [
            (":method", Some(self.method)),
            (":path", Some(&*self.target)),
            ("authorization", self.authorization.as_deref()),
            ("content-type", self.content_type),
        ];
        let fields = fields.into_iter();
        let present = fields.filter_map(|(name, value)| Some((name, value?.as_bytes())));
        RequestHead::new(Fields::of(present))
    }
}

/// An [`Inspection`] to compare with.
#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Nothing; if it succeeds, the session of this token has ended.
    Logout(TokenDigest),
    /// Nothing; if it succeeds, that of the token in its form has.
    Revocation,
    /// The user of this token.
    Owner(TokenDigest),
    Rejection(Rejection),
    Inactive,
    /// A verdict on the token of this kind.
    Verdict(Option<TokenKind>),
    /// The same; if the request succeeds, this has ended.
    VerdictAndLogout(Option<TokenKind>, Logout),
}

/// The configuration with these keys beside those that every one has.
fn config(overrides: Value) -> Config {
    let mut keys = json!({"endpoints": [{"exact": OPTIONAL, "auth": "optional"}]});
    if let Value::Object(overrides) = overrides {
        keys.as_object_mut().unwrap().extend(overrides);
    }
    config::tests::with(keys)
}

fn needs(config: &Config, head: &Head) -> Needs {
    let head = head.read();
    let recognize = |token: &[u8]| Recognized::of(config, TokenSecret::NONE, token);
    match inspect(config, &head, recognize) {
        Inspection::Forward => Needs::Nothing,
        Inspection::ForwardAndWatch(SessionEnd::Revocation) => Needs::Revocation,
        Inspection::ForwardAndWatch(SessionEnd::Logout(token) | SessionEnd::LogoutAll(token)) => {
            Needs::Logout(TokenDigest::of(token.as_bytes()))
        }
        Inspection::Identify(need) => Needs::Owner(need.digest),
        Inspection::Reject(rejection) => Needs::Rejection(rejection),
        Inspection::Inactive => Needs::Inactive,
        Inspection::Introspect(need) => {
            assert_eq!(need.digest, TokenDigest::of(need.token.as_bytes()));
            match need.terms.logout {
                None => Needs::Verdict(need.terms.kind),
                Some(logout) => Needs::VerdictAndLogout(need.terms.kind, logout),
            }
        }
    }
}

fn assert_needs(overrides: Value, expected: &[(Head, Needs)]) {
    let config = config(overrides);
    for (head, expected) in expected {
        let (method, target) = (head.method, &head.target);
        let authorization = &head.authorization;
        assert_eq!(
            &needs(&config, head),
            expected,
            "{method} {target} {authorization:?}"
        );
    }
}

const OAUTH: Needs = Needs::Verdict(Some(TokenKind::AccessToken));
const MISSING: Needs = Needs::Rejection(Rejection::MissingToken);

#[test]
fn the_path_decides_first() {
    let logout = Needs::Logout(TokenDigest::of(TOKEN.as_bytes()));
    assert_needs(
        json!({}),
        &[
            (
                Head::get("/_synapse/mas/query_user").bearer(TOKEN),
                Needs::Rejection(Rejection::Unrecognized),
            ),
            (
                Head::get("/_matrix/federation/v1/version").authorization("nonsense"),
                Needs::Nothing,
            ),
            (
                Head::post("/_matrix/client/v3/logout").bearer(TOKEN),
                logout,
            ),
            (Head::post("/_matrix/client/v3/logout"), Needs::Nothing),
            (Head::get(REQUIRED).bearer(TOKEN), OAUTH),
            (Head::get(OPTIONAL).bearer(TOKEN), OAUTH),
            (Head::get(ADMIN).bearer(TOKEN), OAUTH),
            (Head::get(UNKNOWN).bearer(TOKEN), OAUTH),
        ],
    );
}

/// MAS would take each for a logout. A server that decodes more, or resolves dots, takes it for something else.
#[test]
fn a_logout_that_may_lead_elsewhere_has_its_token_looked_at() {
    let checked = |target: &str, logout| {
        let head = Head::post(target).bearer(TOKEN);
        let expected = Needs::VerdictAndLogout(Some(TokenKind::AccessToken), logout);
        (head, expected)
    };
    assert_needs(
        json!({}),
        &[
            checked("/_matrix/client/..%2Fv3/logout", Logout::One),
            checked("/_matrix/client/../logout?x", Logout::One),
            checked("/_matrix/client/%2e%2e/logout/all", Logout::All),
            checked("/_matrix/client/v3%2Frooms%2Fx%2Fjoin/logout", Logout::One),
            checked("/_matrix/client/v3\\rooms/logout", Logout::One),
            checked("/_matrix/client/..;x/logout/all", Logout::All),
            (
                Head::post("/_matrix/client/..%2Fv3/logout").bearer("mat_damaged"),
                Needs::Inactive,
            ),
            // The homeserver would not take it for a token, and MAS does.
            (
                Head::post("/_matrix/client/..%2Fv3/logout")
                    .authorization(&format!("bearer {TOKEN}")),
                Needs::Logout(TokenDigest::of(TOKEN.as_bytes())),
            ),
            (Head::post("/_matrix/client/..%2Fv3/logout"), Needs::Nothing),
            (
                Head::get("/_matrix/client/..%2Fv3/logout").bearer(TOKEN),
                OAUTH,
            ),
        ],
    );
    // In shadow mode nothing is refused, and the watch is for the end.
    assert_needs(
        json!({"mode": "shadow"}),
        &[(
            Head::post("/_matrix/client/..%2Fv3/logout").bearer(TOKEN),
            Needs::Logout(TokenDigest::of(TOKEN.as_bytes())),
        )],
    );
}

#[test]
fn a_logout_that_may_lead_elsewhere_needs_what_the_strictest_rule_needs() {
    let rules =
        |auth| json!({"endpoints": [{"prefix": "/_matrix/client/v3/private/", "auth": auth}]});
    for target in [
        "/_matrix/client/..%2F..%2Fprivate%2Fx/logout",
        "/_matrix/client/v3%2Fprivate%2Fx/logout",
        "/_matrix/client/v3\\private\\x/logout/all",
    ] {
        for auth in ["required", "admin"] {
            let config = config(rules(auth));
            let head = Head::post(target);
            assert_eq!(needs(&config, &head), MISSING, "{auth} {target}");
            let head = head.bearer(TOKEN);
            let of = |need: &Need<'_>| (need.terms.requirement, need.terms.logout.is_some());
            let expected = match auth {
                "admin" => AuthRequirement::Admin,
                _ => AuthRequirement::Required,
            };
            let read = head.read();
            let recognize = |token: &[u8]| Recognized::of(&config, TokenSecret::NONE, token);
            let Inspection::Introspect(need) = inspect(&config, &read, recognize) else {
                panic!("{auth} {target}");
            };
            assert_eq!(of(&need), (expected, true), "{target}");
        }
    }
    // Where a rule opens paths, the end is heard all the same.
    assert_needs(
        json!({"endpoints": [{"prefix": "/_matrix/client/", "auth": "none"}]}),
        &[(
            Head::post("/_matrix/client/x%2Fy/logout").bearer(TOKEN),
            Needs::Logout(TokenDigest::of(TOKEN.as_bytes())),
        )],
    );
}

#[test]
fn no_token_is_looked_at_where_mas_cannot_judge_it() {
    for auth in ["foreign", "none"] {
        let rules = json!({"endpoints": [{"prefix": "/x", "auth": auth}]});
        let head = Head::get("/x").authorization("nonsense");
        assert_eq!(needs(&config(rules), &head), Needs::Nothing, "{auth}");
    }
    let of_appservices = Head::post("/_matrix/client/v3/register").authorization("nonsense");
    assert_needs(json!({}), &[(of_appservices, Needs::Nothing)]);
}

#[test]
fn a_session_that_ends_below_the_path_of_mas_is_seen() {
    let introspection = json!({
        "cluster": "mas",
        "path": "/auth/oauth2/introspect",
        "credential": {"injected": true},
    });
    assert_needs(
        json!({"introspection": introspection}),
        &[(Head::form("/auth/oauth2/revoke"), Needs::Revocation)],
    );
}

#[test]
fn a_missing_or_malformed_token_is_rejected_only_where_one_is_needed() {
    let faults = || {
        [
            (Head::get(""), Rejection::MissingToken),
            (
                Head::get("").authorization("Basic x"),
                Rejection::InvalidHeader,
            ),
            (Head::get("").bearer("\u{e9}"), Rejection::NotAscii),
            (Head::get("?access_token=x").bearer(TOKEN), Rejection::Mixed),
        ]
    };
    for path in [REQUIRED, ADMIN, OPTIONAL, UNKNOWN] {
        for (fault, rejection) in faults() {
            let head = Head {
                target: format!("{path}{}", fault.target),
                ..fault
            };
            let expected = match path {
                REQUIRED | ADMIN => Needs::Rejection(rejection),
                _ => Needs::Nothing,
            };
            assert_needs(json!({}), &[(head, expected)]);
        }
    }
}

#[test]
fn a_token_in_the_query_counts_unless_that_is_turned_off() {
    let with_token = |path: &str| Head::get(&format!("{path}?access_token={TOKEN}"));
    let without_value = |path: &str| Head::get(&format!("{path}?access_token="));
    assert_needs(
        json!({"query_token": "accept"}),
        &[
            (with_token(REQUIRED), OAUTH),
            (with_token(OPTIONAL), OAUTH),
            (with_token(UNKNOWN), OAUTH),
            (without_value(REQUIRED), Needs::Inactive),
            (without_value(OPTIONAL), Needs::Inactive),
            (without_value(UNKNOWN), Needs::Nothing),
        ],
    );
    assert_needs(
        json!({"query_token": "reject"}),
        &[
            (with_token(REQUIRED), MISSING),
            // It is not ignored: the homeserver would take it.
            (with_token(OPTIONAL), MISSING),
            (with_token(UNKNOWN), Needs::Nothing),
            (without_value(REQUIRED), MISSING),
            (without_value(OPTIONAL), MISSING),
            (without_value(UNKNOWN), Needs::Nothing),
            (Head::get(REQUIRED).bearer(TOKEN), OAUTH),
        ],
    );
}

/// It may lead to a path where the switch refuses the token.
#[test]
fn no_path_with_dots_gets_around_a_switch() {
    for path in [
        "/oauth2/..%2f_matrix/client/v3/account/whoami",
        "/_matrix/key/../client/v3/account/whoami",
        "/another/../service",
    ] {
        let target = format!("{path}?access_token={TOKEN}");
        let without_value = format!("{path}?access_token=");
        assert_needs(
            json!({"query_token": "reject"}),
            &[
                (Head::get(&target), MISSING),
                (Head::get(&without_value), MISSING),
                (Head::get(path).bearer(TOKEN), OAUTH),
                (Head::get(path), Needs::Nothing),
                (Head::get(path).authorization("Basic x"), Needs::Nothing),
            ],
        );
        assert_needs(
            json!({"query_token": "accept"}),
            &[
                (Head::get(&target), OAUTH),
                (Head::get(&without_value), Needs::Inactive),
            ],
        );
        assert_needs(
            json!({"form_tokens": "reject"}),
            &[
                (Head::form(path), MISSING),
                (Head::form(path).bearer(TOKEN), OAUTH),
                (Head::post(path), Needs::Nothing),
            ],
        );
        assert_needs(
            json!({"form_tokens": "pass"}),
            &[(Head::form(path), Needs::Nothing)],
        );
    }
}

#[test]
fn a_form_goes_to_the_homeserver_unless_that_is_turned_off() {
    let with_query = format!("{REQUIRED}?access_token={TOKEN}");
    assert_needs(
        json!({"form_tokens": "pass"}),
        &[
            (Head::form(REQUIRED), Needs::Nothing),
            (Head::form(&with_query), Needs::Nothing),
            (Head::post(REQUIRED), MISSING),
        ],
    );
    assert_needs(
        json!({"form_tokens": "reject"}),
        &[
            (Head::form(REQUIRED), MISSING),
            (Head::form(OPTIONAL), MISSING),
            (Head::form(UNKNOWN), Needs::Nothing),
            (Head::form(REQUIRED).bearer(TOKEN), OAUTH),
        ],
    );
    assert_needs(
        json!({"form_tokens": "pass", "query_token": "reject"}),
        &[
            (Head::form(REQUIRED), Needs::Nothing),
            (Head::form(&with_query), MISSING),
        ],
    );
}

/// Twisted decodes the type, and may find a form. Then the token in its body counts, and otherwise that in the query.
#[test]
fn a_body_that_may_be_a_form_hides_no_token_in_the_query() {
    let post = |target: &str, content_type| Head {
        content_type: Some(content_type),
        ..Head::post(target)
    };
    let encoded = "application/x-www-=?utf-8?q?form-urlencoded?=";
    let with_query = |path: &str| format!("{path}?access_token={TOKEN}");
    let dead = format!("{REQUIRED}?access_token=mat_damaged");
    for (form_tokens, of_query, of_body) in [
        ("pass", OAUTH, Needs::Nothing),
        ("reject", MISSING, MISSING),
    ] {
        assert_needs(
            json!({"form_tokens": form_tokens}),
            &[
                (post(&with_query(REQUIRED), encoded), of_query),
                (post(REQUIRED, encoded), of_body),
                (post(&with_query(UNKNOWN), encoded), OAUTH),
                (post(&with_query(REQUIRED), "application/json;a==?"), OAUTH),
                (post(REQUIRED, "application/json;a==?"), MISSING),
            ],
        );
    }
    assert_needs(
        json!({"form_tokens": "pass"}),
        &[(post(&dead, encoded), Needs::Inactive)],
    );
}

#[test]
fn the_form_of_a_token_decides_whether_mas_is_asked() {
    let control_byte = "opaque\u{1}token";
    for (unrecognized, of_opaque, of_control_byte) in [
        ("pass", Needs::Nothing, Needs::Nothing),
        ("reject", Needs::Inactive, Needs::Inactive),
        ("introspect", Needs::Verdict(None), Needs::Inactive),
    ] {
        let with = |token: &str| Head::get(REQUIRED).bearer(token);
        assert_needs(
            json!({"unrecognized_tokens": unrecognized}),
            &[
                (with(TOKEN), OAUTH),
                (with(REFRESH_TOKEN), Needs::Inactive),
                (with("mat_damaged"), Needs::Inactive),
                (with("opaque"), of_opaque),
                (with(control_byte), of_control_byte),
            ],
        );
    }
}

#[test]
fn an_appservice_token_may_look_like_anything() {
    let digest = |token: &str| {
        let digest = AppserviceTokens::digest(token.as_bytes());
        digest.map(|byte| format!("{byte:02x}")).concat()
    };
    let tokens = [TOKEN, "opaque"];
    assert_needs(
        json!({
            "unrecognized_tokens": "reject",
            "appservice_tokens": tokens.map(digest),
        }),
        &[
            (Head::get(REQUIRED).bearer(TOKEN), Needs::Nothing),
            (Head::get(REQUIRED).bearer("opaque"), Needs::Nothing),
            (Head::get(REQUIRED).bearer("another"), Needs::Inactive),
        ],
    );
}

#[test]
fn no_token_is_wrong_where_the_homeserver_looks_at_none() {
    let config = config(json!({}));
    let of = |method, target| {
        let head = Head {
            method,
            ..Head::get(target)
        };
        ignores_token(&config, &head.read(), Served::default())
    };
    for target in [REQUIRED, OPTIONAL, ADMIN, UNKNOWN] {
        assert!(of("OPTIONS", target), "a pre-flight: {target}");
    }
    assert!(of("DELETE", REQUIRED), "a method that it does not serve");
    assert!(!of("GET", REQUIRED));
    assert!(!of("DELETE", OPTIONAL), "a rule names it");
}

// --- what a verdict makes of a request ---------------------------------------------------------------

const API: &str = "urn:matrix:client:api:*";
const REQUIREMENTS: [AuthRequirement; 5] = [
    AuthRequirement::Required,
    AuthRequirement::Optional,
    AuthRequirement::Admin,
    AuthRequirement::Dotted,
    AuthRequirement::Unknown,
];

/// A [`Decision`] to compare with.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Forwarded,
    ForwardedAs(String),
    Rejected(Rejection),
}

fn active(scope: &str) -> Verdict<Grant> {
    let token = ActiveToken {
        username: Some("alice"),
        device_id: Some("A"),
        client_id: Some("client"),
        scope,
    };
    let names = json!({"identity_headers": {"client_id": "x-client", "scope": "x-scope"}});
    Verdict::Active(Grant::new(&token, config(names).grant_terms()))
}

fn terms(requirement: AuthRequirement, kind: Option<TokenKind>) -> Terms {
    Terms {
        requirement,
        kind,
        may_be_overridden: false,
        logout: None,
    }
}

fn end(overrides: &Value, requirement: AuthRequirement, verdict: Verdict<Grant>) -> End {
    match decide(
        &config(overrides.clone()),
        terms(requirement, None),
        verdict,
    ) {
        Decision::Forward => End::Forwarded,
        Decision::Annotate(annotation) => {
            let user_id = annotation.identity.user_id.clone();
            End::ForwardedAs(String::from_utf8(user_id).unwrap())
        }
        Decision::Reject(rejection) => End::Rejected(rejection),
    }
}

#[test]
fn an_active_token_makes_its_user_known() {
    let scope = format!("{API} urn:synapse:admin:*");
    for requirement in REQUIREMENTS {
        let expected = End::ForwardedAs("@alice:example.org".to_owned());
        assert_eq!(end(&json!({}), requirement, active(&scope)), expected);
    }
    let (config, kind) = (config(json!({})), Some(TokenKind::AccessToken));
    let decision = decide(&config, terms(AuthRequirement::Required, kind), active(API));
    let Decision::Annotate(annotation) = decision else {
        panic!("{decision:?}");
    };
    let headers = &annotation.identity;
    assert_eq!(headers.device_id.as_deref(), Some(&b"A"[..]));
    assert_eq!(headers.client_id.as_deref(), Some(&b"client"[..]));
    assert_eq!(headers.scope.as_deref(), Some(API.as_bytes()));
    assert_eq!(annotation.kind, kind);
}

#[test]
fn only_an_administrator_gets_to_the_admin_api() {
    for requirement in REQUIREMENTS {
        let expected = match requirement {
            AuthRequirement::Admin => End::Rejected(Rejection::NotServerAdmin),
            _ => End::ForwardedAs("@alice:example.org".to_owned()),
        };
        assert_eq!(end(&json!({}), requirement, active(API)), expected);
    }
}

#[test]
fn a_token_without_the_scope_of_matrix_may_be_good_for_another_service() {
    for requirement in REQUIREMENTS {
        let expected = match requirement {
            AuthRequirement::Dotted | AuthRequirement::Unknown => End::Forwarded,
            _ => End::Rejected(Rejection::NoApiScope),
        };
        assert_eq!(end(&json!({}), requirement, active("openid")), expected);
    }
}

#[test]
fn an_inactive_token_is_rejected_everywhere() {
    for requirement in REQUIREMENTS {
        let verdict = Verdict::Inactive(InactiveAnswer::default());
        let expected = End::Rejected(Rejection::NotActive);
        assert_eq!(end(&json!({}), requirement, verdict), expected);
    }
}

#[test]
fn without_a_verdict_the_configuration_decides_and_no_token_is_called_inactive() {
    for why in [
        NoVerdict::Undeliverable,
        NoVerdict::Reset,
        NoVerdict::Status(500),
        NoVerdict::UnknownCluster,
        NoVerdict::Unreachable(ConnectionFault::Other),
        NoVerdict::Timeout,
        NoVerdict::NotJson,
        NoVerdict::Oversized,
        NoVerdict::Malformed,
        NoVerdict::Lost,
        NoVerdict::Overloaded,
        NoVerdict::TokenTooLong,
        NoVerdict::Elsewhere,
        NoVerdict::Outdated,
    ] {
        for (on_failure, expected) in [
            ("reject", End::Rejected(Rejection::IntrospectionFailed)),
            ("pass", End::Forwarded),
        ] {
            let overrides = json!({"on_introspection_failure": on_failure});
            for requirement in REQUIREMENTS {
                let end = end(&overrides, requirement, Verdict::None(why));
                assert_eq!(end, expected, "{why:?}");
            }
        }
    }
}

#[test]
fn a_client_over_its_budget_is_told_when_to_come_again() {
    for on_failure in ["reject", "pass"] {
        let overrides = json!({"on_introspection_failure": on_failure});
        let retry_after_ms = 1_500;
        let verdict = Verdict::None(NoVerdict::OverBudget { retry_after_ms });
        assert_eq!(
            end(&overrides, AuthRequirement::Required, verdict),
            End::Rejected(Rejection::LimitExceeded { retry_after_ms })
        );
    }
}

#[test]
fn a_grant_counts_all_that_it_holds() {
    let bytes = |verdict: Verdict<Grant>| match verdict {
        Verdict::Active(grant) => grant.heap_bytes(),
        _ => 0,
    };
    let longer = format!("{API}{}", " x".repeat(500));
    // A space is three bytes of a header's value.
    assert_eq!(bytes(active(&longer)), bytes(active(API)) + 2_000);
    assert_eq!(bytes(active("")), 0, "a refusal has nothing on the heap");
}

/// A worker keeps thousands of grants.
#[test]
fn a_grant_holds_nothing_that_no_header_tells() {
    let token = ActiveToken {
        username: Some("alice"),
        device_id: Some("A"),
        client_id: Some("client"),
        scope: API,
    };
    let Grant::Identity(identity) = Grant::new(&token, config(json!({})).grant_terms()) else {
        panic!("it may act as alice");
    };
    assert_eq!((&identity.client_id, &identity.scope), (&None, &None));
    assert_eq!(identity.device_id.as_deref(), Some(&b"A"[..]));
}
