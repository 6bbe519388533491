//! The table of keys: every key of the configuration with its type, range or choices, default and one sentence.
//!
//! The reader, the JSON Schema and the reference are all made from it. What the keys are for is said here and
//! nowhere else.
//!
//! Four rules are not in a row, and so not in the schema: a key may be given once, an environment variable must hold
//! a secret, the names of identity headers must differ, and the configuration may also come as a `Struct`.

use super::{
    FormTokens, Mode, OnFailure, QueryToken, Role, UnrecognizedTokens,
    identity_headers::{DEVICE_ID, USER_ID},
    key::{
        Choice, Count, DurationRange, Key, List, Object, Presence, Row, True, Words, choice, key,
    },
    text,
};
use crate::{
    mas::introspection::MAX_RETRIES,
    matrix::endpoint::{AuthRequirement, Method},
};

/// In milliseconds.
const SECOND: u32 = 1_000;
const MINUTE: u32 = 60 * SECOND;
const HOUR: u32 = 60 * MINUTE;
const MAX_SLOTS: u32 = 1 << 22;

use Presence::{Nullable, OneOf, Optional, Required, RequiredByRole};

/// The whole configuration.
pub(super) static CONFIGURATION: Object = Object {
    takes: "a JSON object",
    rows: &[
        Row::Choice(&ROLE.key),
        Row::Text(&SERVER_NAME),
        Row::Object(&INTROSPECTION),
        Row::Object(&CACHE),
        Row::Choice(&MODE.key),
        Row::Choice(&ON_INTROSPECTION_FAILURE.key),
        Row::Choice(&UNRECOGNIZED_TOKENS.key),
        Row::List(&APPSERVICE_TOKENS),
        Row::Choice(&QUERY_TOKEN.key),
        Row::Choice(&FORM_TOKENS.key),
        Row::Object(&IDENTITY_HEADERS),
        Row::Boolean(&FILTER_STATE),
        Row::Boolean(&LEARN_FROM_REFUSALS),
        Row::List(&ENDPOINTS),
        Row::Object(&UNKNOWN_TOKEN_BUDGET),
    ],
    may_hide_secret: false,
};

pub(super) static ROLE: Choice<Role> = choice!(
    "role",
    Optional,
    {
        "gateway" => Role::Gateway,
        "introspection" => Role::Introspection,
        "provisioning" => Role::Provisioning,
    },
    "What the listener is for: `gateway` checks the requests of clients, `introspection` answers the homeserver's \
     questions to MAS, `provisioning` watches what MAS tells the homeserver.",
);

pub(super) static SERVER_NAME: Key<Words> = key(
    "server_name",
    RequiredByRole,
    Words {
        form: &text::SERVER_NAME,
        default: None,
    },
    "The homeserver's `server_name`, which completes the user ids. The role `introspection` does not need it.",
);

pub(super) static INTROSPECTION: Key<&Object> = key(
    "introspection",
    Required,
    &INTROSPECTION_OBJECT,
    "Where MAS is and how it is asked.",
);

pub(super) static CACHE: Key<&Object> = key(
    "cache",
    Optional,
    &CACHE_OBJECT,
    "How long MAS's answers are kept, and how many.",
);

pub(super) static MODE: Choice<Mode> = choice!(
    "mode",
    Optional,
    {
        "enforce" => Mode::Enforce,
        "shadow" => Mode::Shadow,
    },
    "`enforce` rejects requests; `shadow` lets them pass, and only counts what it would have rejected.",
);

pub(super) static ON_INTROSPECTION_FAILURE: Choice<OnFailure> = choice!(
    "on_introspection_failure",
    Optional,
    {
        "reject" => OnFailure::Reject,
        "pass" => OnFailure::Pass,
    },
    "What happens to a request while MAS gives no answer: `reject` sends 503, `pass` lets it go on without an \
     identity.",
);

pub(super) static UNRECOGNIZED_TOKENS: Choice<UnrecognizedTokens> = choice!(
    "unrecognized_tokens",
    Optional,
    {
        "pass" => UnrecognizedTokens::Pass,
        "introspect" => UnrecognizedTokens::Introspect,
        "reject" => UnrecognizedTokens::Reject,
    },
    "What happens to a foreign token, which is not of MAS's format, such as that of a bridge: `pass` lets the \
     request go on without an identity, `introspect` asks MAS about it, `reject` sends 401.",
);

pub(super) static APPSERVICE_TOKENS: Key<List> = key(
    "appservice_tokens",
    Optional,
    List {
        takes: "a list of SHA-256 digests of tokens",
        item: Row::Text(&DIGEST),
        may_be_empty: true,
    },
    "SHA-256 digests of the tokens of bridges and other application services. A request with one of these tokens \
     goes on without an identity.",
);

static DIGEST: Key<Words> = key(
    "",
    Optional,
    Words {
        form: &text::DIGEST,
        default: None,
    },
    "The SHA-256 of a token, as `printf %s \"$AS_TOKEN\" | sha256sum` prints it.",
);

pub(super) static QUERY_TOKEN: Choice<QueryToken> = choice!(
    "query_token",
    Optional,
    {
        "accept" => QueryToken::Accept,
        "reject" => QueryToken::Reject,
    },
    "Whether a token in the query (`?access_token=`) counts: `accept` as Synapse does, `reject` as the Matrix \
     specification says since version 1.20.",
);

pub(super) static FORM_TOKENS: Choice<FormTokens> = choice!(
    "form_tokens",
    Optional,
    {
        "pass" => FormTokens::Pass,
        "reject" => FormTokens::Reject,
    },
    "What happens to a form-encoded `POST` without an `Authorization` header, whose body may hold a token: `pass` \
     lets it go on without an identity, `reject` sends 401 `M_MISSING_TOKEN`.",
);

pub(super) static IDENTITY_HEADERS: Key<&Object> = key(
    "identity_headers",
    Optional,
    &IDENTITY_HEADERS_OBJECT,
    "The names of the request headers that tell the homeserver who sent a request. No two of them may be equal.",
);

pub(super) static FILTER_STATE: Key<bool> = key(
    "filter_state",
    Optional,
    false,
    "Whether the identity and the verdict are also written to Envoy's filter state, for rate limits, RBAC and access \
     logs: `wasm.matrix_user_id`, `wasm.matrix_device_id`, `wasm.matrix_verdict` and `wasm.matrix_verdict_source`.",
);

pub(super) static LEARN_FROM_REFUSALS: Key<bool> = key(
    "learn_from_refusals",
    Optional,
    true,
    "Whether a 401 of the homeserver to an active token makes the next request ask MAS again. With `false` the \
     gateway learns from no responses but those to logouts and revocations; use it where MAS talks to the `provisioning` \
     role.",
);

pub(super) static ENDPOINTS: Key<List> = key(
    "endpoints",
    Optional,
    List {
        takes: "a list of {prefix | exact, methods, auth}",
        item: Row::Object(&ENDPOINT),
        may_be_empty: true,
    },
    "Rules that say which paths need a token. They are tried in order, before the built-in table of the Matrix API. By \
     themselves `required` and `admin` protect nothing: `unrecognized_tokens: pass` lets any foreign token pass, and \
     `form_tokens: pass` a form without one.",
);

pub(super) static UNKNOWN_TOKEN_BUDGET: Key<&Object> = key(
    "unknown_token_budget",
    Nullable,
    &BUDGET_OBJECT,
    "How many different tokens that MAS calls inactive one client address may bring, before it gets 429. `null` is \
     without limit.",
);

static INTROSPECTION_OBJECT: Object = Object {
    takes: "an object",
    rows: &[
        Row::Text(&CLUSTER),
        Row::Text(&AUTHORITY),
        Row::Text(&PATH),
        Row::Duration(&TIMEOUT),
        Row::Object(&CREDENTIAL),
        Row::Number(&MAX_IN_FLIGHT),
        Row::Number(&RETRIES),
        Row::Boolean(&SHARD_BY_TOKEN),
    ],
    may_hide_secret: false,
};

pub(super) static CLUSTER: Key<Words> = key(
    "cluster",
    Required,
    Words {
        form: &text::CLUSTER,
        default: None,
    },
    "The Envoy cluster of MAS, for these calls only: route clients to MAS through another cluster. Clients may share it \
     only if it has no limits and no `credential_injector`, as with Istio.",
);

pub(super) static AUTHORITY: Key<Words> = key(
    "authority",
    Optional,
    Words {
        form: &text::AUTHORITY,
        default: None,
    },
    "The host name of MAS in the request, with or without a port. Without this key it is the name of the cluster.",
);

pub(super) static PATH: Key<Words> = key(
    "path",
    Optional,
    Words {
        form: &text::INTROSPECTION_PATH,
        default: Some("/oauth2/introspect"),
    },
    "The path of MAS's introspection endpoint. What stands before `/oauth2/introspect` is the path prefix of MAS.",
);

pub(super) static TIMEOUT: Key<DurationRange> = key(
    "timeout",
    Optional,
    DurationRange {
        from: 1,
        to: MINUTE,
        default: 5 * SECOND,
    },
    "How long a call to MAS may take, retries included. A request waits for two calls at the most.",
);

pub(super) static CREDENTIAL: Key<&Object> = key(
    "credential",
    Required,
    &CREDENTIAL_OBJECT,
    "What proves to MAS that the edge may ask: exactly one of `bearer`, `basic` and `injected`.",
);

pub(super) static MAX_IN_FLIGHT: Key<Count> = key(
    "max_in_flight",
    Optional,
    Count {
        from: 1,
        to: 65_536,
        default: 256,
    },
    "How many calls to MAS may be under way at once, for each Envoy worker and role.",
);

pub(super) static RETRIES: Key<Count> = key(
    "retries",
    Optional,
    Count {
        from: 0,
        to: MAX_RETRIES,
        default: 1,
    },
    "How often a call is repeated whose connection failed or was reset before an answer. A call that MAS answered, with \
     whatever status, is not repeated.",
);

pub(super) static SHARD_BY_TOKEN: Key<bool> = key(
    "shard_by_token",
    Optional,
    false,
    "Whether the authority begins with a label made from the token's digest, so that a ring-hash cluster sends equal \
     tokens to the same Envoy.",
);

static CREDENTIAL_OBJECT: Object = Object {
    takes: "exactly one of {bearer: S}, {basic: {client_id, client_secret: S}} and {injected: true}, where S is \
            {env: \"NAME\"} or {value: \"...\"}",
    rows: &[
        Row::Object(&BEARER),
        Row::Object(&BASIC),
        Row::True(&INJECTED),
    ],
    may_hide_secret: true,
};

pub(super) static BEARER: Key<&Object> = key(
    "bearer",
    OneOf,
    &SECRET_OBJECT,
    "The secret that MAS and the homeserver share: `matrix.secret` in MAS's configuration.",
);

pub(super) static BASIC: Key<&Object> = key(
    "basic",
    OneOf,
    &BASIC_OBJECT,
    "The id and the secret of an OAuth client in MAS's configuration.",
);

pub(super) static INJECTED: Key<True> = key(
    "injected",
    OneOf,
    True,
    "Envoy itself adds the credential, by a `credential_injector` on the cluster. The module never sees the secret.",
);

static BASIC_OBJECT: Object = Object {
    takes: r#"{client_id, client_secret: S}, where S is {env: "NAME"} or {value: "..."}"#,
    rows: &[Row::Text(&CLIENT_ID), Row::Object(&CLIENT_SECRET)],
    may_hide_secret: true,
};

pub(super) static CLIENT_ID: Key<Words> = key(
    "client_id",
    Required,
    Words {
        form: &text::CLIENT_ID,
        default: None,
    },
    "The id of the OAuth client.",
);

pub(super) static CLIENT_SECRET: Key<&Object> = key(
    "client_secret",
    Required,
    &SECRET_OBJECT,
    "The secret of the OAuth client.",
);

static SECRET_OBJECT: Object = Object {
    takes: r#"{env: "NAME"} or {value: "..."}"#,
    rows: &[Row::Text(&ENV), Row::Text(&VALUE)],
    may_hide_secret: true,
};

pub(super) static ENV: Key<Words> = key(
    "env",
    OneOf,
    Words {
        form: &text::VARIABLE,
        default: None,
    },
    "The environment variable that holds the secret. Envoy must pass it on: name it under \
     `vm_config.environment_variables.host_env_keys`.",
);

pub(super) static VALUE: Key<Words> = key(
    "value",
    OneOf,
    Words {
        form: &text::SECRET,
        default: None,
    },
    "The secret itself, without `Bearer` or `Basic` before it. Envoy's admin interface shows it in `/config_dump`.",
);

static CACHE_OBJECT: Object = Object {
    takes: "an object",
    rows: &[
        Row::Duration(&TTL),
        Row::Duration(&NEGATIVE_TTL),
        Row::Duration(&STALE_IF_ERROR),
        Row::Boolean(&REFRESH_AHEAD),
        Row::Number(&SLOTS),
        Row::Number(&NEGATIVE_SLOTS),
        Row::Number(&LOCAL_ENTRIES),
    ],
    may_hide_secret: false,
};

pub(super) static TTL: Key<DurationRange> = key(
    "ttl",
    Optional,
    DurationRange {
        from: SECOND,
        to: HOUR,
        default: 2 * MINUTE,
    },
    "How long an active answer is used. It is never used for longer than the token lives.",
);

pub(super) static NEGATIVE_TTL: Key<DurationRange> = key(
    "negative_ttl",
    Optional,
    DurationRange {
        from: 0,
        to: 2 * MINUTE,
        default: 10 * SECOND,
    },
    "How long an inactive answer is used. Keep it short, because unlocking a user makes the same token active again; \
     with `0s` none is used again.",
);

pub(super) static STALE_IF_ERROR: Key<DurationRange> = key(
    "stale_if_error",
    Optional,
    DurationRange {
        from: 0,
        to: HOUR,
        default: 0,
    },
    "How much longer than `ttl` an active answer is used while MAS cannot be asked. It is never used for longer than \
     the token lives.",
);

pub(super) static REFRESH_AHEAD: Key<bool> = key(
    "refresh_ahead",
    Optional,
    true,
    "Whether an active answer in use is renewed shortly before it ends, so that no request waits for it.",
);

pub(super) static SLOTS: Key<Count> = key(
    "slots",
    Optional,
    Count {
        from: 1,
        to: MAX_SLOTS,
        default: 65_536,
    },
    "The size of the shared table of active answers. Give it four times as many slots as you have sessions.",
);

pub(super) static NEGATIVE_SLOTS: Key<Count> = key(
    "negative_slots",
    Optional,
    Count {
        from: 1,
        to: MAX_SLOTS,
        default: 8_192,
    },
    "The size of the shared table of inactive answers.",
);

pub(super) static LOCAL_ENTRIES: Key<Count> = key(
    "local_entries",
    Optional,
    Count {
        from: 0,
        to: 1_048_576,
        default: 4_096,
    },
    "How many active answers each Envoy worker also keeps for itself, and at most 1,024 of the inactive ones that come again; `0` keeps none.",
);

static IDENTITY_HEADERS_OBJECT: Object = Object {
    takes: "an object of header names",
    rows: &[
        Row::Text(&USER_ID_HEADER),
        Row::Text(&DEVICE_ID_HEADER),
        Row::Text(&CLIENT_ID_HEADER),
        Row::Text(&SCOPE_HEADER),
        Row::Text(&TOKEN_KIND_HEADER),
    ],
    may_hide_secret: false,
};

pub(super) static USER_ID_HEADER: Key<Words> = header(
    "user_id",
    Some(USER_ID),
    "The header for the user id, `@localpart:server_name`. `null` turns it off.",
);

pub(super) static DEVICE_ID_HEADER: Key<Words> = header(
    "device_id",
    Some(DEVICE_ID),
    "The header for the device id. `null` turns it off.",
);

pub(super) static CLIENT_ID_HEADER: Key<Words> = header(
    "client_id",
    None,
    "The header for the id of the OAuth client.",
);

pub(super) static SCOPE_HEADER: Key<Words> =
    header("scope", None, "The header for the scope of the token.");

pub(super) static TOKEN_KIND_HEADER: Key<Words> = header(
    "token_kind",
    None,
    "The header for the kind of token: `access_token`, `compat_access_token` or `personal_access_token`.",
);

const fn header(
    name: &'static str,
    default: Option<&'static str>,
    sentence: &'static str,
) -> Key<Words> {
    let form = &text::HEADER_NAME;
    key(name, Nullable, Words { form, default }, sentence)
}

static ENDPOINT: Key<&Object> = key("", Optional, &ENDPOINT_OBJECT, "A rule.");

static ENDPOINT_OBJECT: Object = Object {
    takes: "{prefix | exact: \"/...\", methods: [..], auth: ..}, with one of prefix and exact",
    rows: &[
        Row::Text(&PREFIX),
        Row::Text(&EXACT),
        Row::List(&METHODS),
        Row::Choice(&AUTH.key),
    ],
    may_hide_secret: false,
};

pub(super) static PREFIX: Key<Words> = key(
    "prefix",
    OneOf,
    Words {
        form: &text::ENDPOINT_PATH,
        default: None,
    },
    "The rule is for all paths that begin so.",
);

pub(super) static EXACT: Key<Words> = key(
    "exact",
    OneOf,
    Words {
        form: &text::ENDPOINT_PATH,
        default: None,
    },
    "The rule is for this path alone.",
);

pub(super) static METHODS: Key<List> = key(
    "methods",
    Optional,
    List {
        takes: "a list of GET, POST, PUT, DELETE and PATCH, not empty",
        item: Row::Choice(&METHOD.key),
        may_be_empty: false,
    },
    "The rule is for these methods; `GET` is `HEAD`, too. Without this key it is for every method.",
);

pub(super) static METHOD: Choice<Method> = choice!(
    "",
    Optional,
    {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
    },
    "A method of HTTP.",
);

pub(super) static AUTH: Choice<AuthRequirement> = choice!(
    "auth",
    Required,
    {
        "none" => AuthRequirement::None,
        "optional" => AuthRequirement::Optional,
        "required" => AuthRequirement::Required,
        "admin" => AuthRequirement::Admin,
        "foreign" => AuthRequirement::Foreign,
    },
    "What the path needs: `none` looks at no token, `optional` takes a request without a token too, `required` needs \
     a token, `admin` needs one with the scope of a server administrator, `foreign` leaves alone a path whose tokens \
     are not MAS's.",
);

static BUDGET_OBJECT: Object = Object {
    takes: "{per_source, window} or null",
    rows: &[Row::Number(&PER_SOURCE), Row::Duration(&WINDOW)],
    may_hide_secret: false,
};

pub(super) static PER_SOURCE: Key<Count> = key(
    "per_source",
    Required,
    Count {
        from: 1,
        to: 1_000_000,
        default: 50,
    },
    "How many different inactive tokens one client address may bring in a window.",
);

pub(super) static WINDOW: Key<DurationRange> = key(
    "window",
    Required,
    DurationRange {
        from: SECOND,
        to: HOUR,
        default: 10 * SECOND,
    },
    "How long a window is.",
);

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde_json::Value;

    use super::*;
    use crate::config::key::Names;

    /// The names that a choice takes. Each must mean the variant of that name, and the first one is the default.
    fn names<T: Copy + Debug>(choice: &'static Choice<T>) -> Names {
        let is_called = |value: T, name: &str| format!("{value:?}").eq_ignore_ascii_case(name);
        let names = choice.key.takes;
        for name in names {
            let value = choice.read(Some(&Value::from(*name)));
            assert!(is_called(value, name), "{name} means {value:?}");
        }
        assert!(is_called(choice.read(None), names[0]), "{names:?}");
        names
    }

    /// Adds the names of the choices in a row and below it.
    fn collect(row: &Row, found: &mut Vec<Names>) {
        match row {
            Row::Choice(key) => found.push(key.takes),
            Row::Object(key) => key.takes.rows.iter().for_each(|row| collect(row, found)),
            Row::List(key) => collect(&key.takes.item, found),
            Row::Boolean(_) | Row::True(_) | Row::Number(_) | Row::Duration(_) | Row::Text(_) => {}
        }
    }

    #[test]
    fn each_name_of_a_choice_means_the_variant_of_that_name() {
        let tested = [
            names(&ROLE),
            names(&MODE),
            names(&ON_INTROSPECTION_FAILURE),
            names(&UNRECOGNIZED_TOKENS),
            names(&QUERY_TOKEN),
            names(&FORM_TOKENS),
            names(&METHOD),
            names(&AUTH),
        ];
        let mut all = Vec::new();
        let rows = CONFIGURATION.rows.iter();
        rows.for_each(|row| collect(row, &mut all));
        assert_eq!(
            all, tested,
            "every choice is tested, in the order of the rows"
        );
    }

    #[test]
    fn roles_and_modes_are_told_as_they_are_written() {
        let read = |name: &&str| Some(Value::from(*name));
        for name in ROLE.key.takes {
            assert_eq!(ROLE.read(read(name).as_ref()).name(), *name);
        }
        for name in MODE.key.takes {
            assert_eq!(MODE.read(read(name).as_ref()).name(), *name);
        }
    }
}
