//! The labels of the metrics: each is an enum, so that no value ever comes from a request.

/// A label and its value.
pub(super) type Label = (&'static str, &'static str);

/// No label.
pub(super) const NONE: Label = ("", "");

/// Defines an enum whose variants are the values of a label, each with its name in the metrics.
macro_rules! label_values {
    ($(#[$doc:meta])* $enum:ident: $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $enum {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns its name in the metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}

label_values! {
    /// Why an active answer was dropped before its time, or all answers about a user.
    InvalidationReason:
    /// The provisioning request `delete_device`.
    DeleteDevice = "delete_device",
    /// The provisioning request `delete_user`.
    DeleteUser = "delete_user",
    /// The homeserver refused the token.
    Homeserver = "homeserver",
    /// MAS has answered otherwise since, or the token ended while it was asked about.
    Introspection = "introspection",
    /// A logout through the gateway.
    Logout = "logout",
    /// The provisioning request `provision_user`.
    ProvisionUser = "provision_user",
    /// The provisioning request `reactivate_user`.
    ReactivateUser = "reactivate_user",
    /// A revocation through the gateway.
    Revocation = "revocation",
    /// The provisioning request `sync_devices`.
    SyncDevices = "sync_devices",
    /// The provisioning request `upsert_device`.
    UpsertDevice = "upsert_device",
}

label_values! {
    /// How the asking of a question ended.
    IntrospectionOutcome:
    /// MAS calls the token active.
    Active = "active",
    /// MAS calls the token inactive.
    Inactive = "inactive",
    /// Envoy never delivered an answer.
    Lost = "lost",
    /// MAS answered 200 with what is not an introspection response.
    Malformed = "malformed",
    /// It was not asked: too many calls were under way, or too many requests waited.
    Overloaded = "overloaded",
    /// The answer was too long.
    Oversized = "oversized",
    /// The answer broke off, or was longer than Envoy keeps.
    Reset = "reset",
    /// MAS answered with another status than 200.
    Status = "status",
    /// MAS did not answer in time.
    Timeout = "timeout",
    /// Envoy did not take the question.
    Undeliverable = "undeliverable",
    /// Envoy took the question, but its connection to MAS failed before an answer.
    Unreachable = "unreachable",
}

label_values! {
    /// Why the edge answers in place of the homeserver.
    RejectionReason:
    /// A fault of the edge itself.
    Internal = "internal",
    /// There is no verdict.
    IntrospectionFailed = "introspection_failed",
    /// The device id is empty or too long.
    InvalidDevice = "invalid_device",
    /// The `Authorization` header is malformed.
    InvalidHeader = "invalid_header",
    /// The token belongs to no user.
    InvalidUsername = "invalid_username",
    /// The client brought too many inactive tokens.
    LimitExceeded = "limit_exceeded",
    /// There is no token where one is needed.
    MissingToken = "missing_token",
    /// There is a token in the header and another in the query.
    Mixed = "mixed",
    /// The scope names more than one device.
    MultipleDevices = "multiple_devices",
    /// The token lacks the scope of the client-server API.
    NoApiScope = "no_api_scope",
    /// The token is not active.
    NotActive = "not_active",
    /// The token has bytes outside ASCII.
    NotAscii = "not_ascii",
    /// The token lacks the admin scope.
    NotServerAdmin = "not_server_admin",
    /// More than one `Authorization` header.
    SeveralAuthorizations = "several_authorizations",
    /// More identity headers that the client made up than are removed from a request.
    TooManyForged = "too_many_forged",
    /// The path is never public.
    Unrecognized = "unrecognized",
}

label_values! {
    /// What the homeserver answered to a request that shadow mode let pass.
    HomeserverAnswer:
    /// Nothing: the request ended before, or Envoy answered in its place.
    None = "none",
    /// Success.
    Success = "2xx",
    /// A redirect.
    Redirect = "3xx",
    /// An error of the client.
    ClientError = "4xx",
    /// An error of the server.
    ServerError = "5xx",
}

/// How a request was decided: the verdict and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Active, from the worker's own cache.
    ActiveLocal,
    /// Active, from the shared cache.
    ActiveShared,
    /// Active past its time, or doubted, because MAS gave no answer or no call was free.
    ActiveStale,
    /// Active, by an introspection.
    ActiveIntrospected,
    /// Inactive, from the shared cache.
    InactiveShared,
    /// Inactive, by an introspection.
    InactiveIntrospected,
    /// Inactive without asking: the token cannot exist.
    InactiveOffline,
    /// MAS was asked, or should have been, and there is no verdict.
    NoVerdict,
    /// The client brought too many inactive tokens.
    OverBudget,
    /// No verdict was needed or possible: public endpoint, no token, appservice token.
    NotAsked,
}

label_values! {
    /// How the secret that a provisioning request presents compares with the one that is configured here.
    PresentedSecret:
    /// It is the same: the caller is MAS.
    Matching = "matching",
    /// It is another one.
    Different = "different",
    /// The request presents none.
    Missing = "missing",
    /// No shared secret is configured here.
    Unchecked = "unchecked",
}

label_values! {
    /// The two tables of the shared cache.
    CacheTable:
    /// Active tokens.
    Active = "active",
    /// Inactive tokens.
    Negative = "negative",
}

label_values! {
    /// What an entry was when it made room for another.
    Evicted:
    /// An answer past its time.
    Expired = "ended",
    /// An answer that still held.
    Live = "capacity",
}

label_values! {
    /// The result of a look-up.
    LookupResult:
    /// A fresh entry was found.
    Hit = "hit",
    /// None was, or only a stale one.
    Miss = "miss",
}

impl HomeserverAnswer {
    /// Returns what a status says; `None` is no answer.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            Some(200..=299) => Self::Success,
            Some(300..=399) => Self::Redirect,
            Some(400..=499) => Self::ClientError,
            Some(500..=599) => Self::ServerError,
            _ => Self::None,
        }
    }
}

impl InvalidationReason {
    /// Returns whether a provisioning request is the reason.
    pub fn is_provisioning(self) -> bool {
        !matches!(
            self,
            Self::Homeserver | Self::Introspection | Self::Logout | Self::Revocation
        )
    }
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &[Self] = &[
        Self::ActiveLocal,
        Self::ActiveShared,
        Self::ActiveStale,
        Self::ActiveIntrospected,
        Self::InactiveShared,
        Self::InactiveIntrospected,
        Self::InactiveOffline,
        Self::NoVerdict,
        Self::OverBudget,
        Self::NotAsked,
    ];

    /// What is known of the token.
    pub fn verdict(self) -> &'static str {
        self.words().0
    }

    /// Where that is from.
    pub fn source(self) -> &'static str {
        self.words().1
    }

    /// Returns both as labels.
    pub(super) fn labels(self) -> [Label; 2] {
        [("verdict", self.verdict()), ("source", self.source())]
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::ActiveLocal => ("active", "local"),
            Self::ActiveShared => ("active", "shared"),
            Self::ActiveStale => ("active", "stale"),
            Self::ActiveIntrospected => ("active", "mas"),
            Self::InactiveShared => ("inactive", "shared"),
            Self::InactiveIntrospected => ("inactive", "mas"),
            Self::InactiveOffline => ("inactive", "offline"),
            Self::NoVerdict => ("no_verdict", "mas"),
            Self::OverBudget => ("no_verdict", "budget"),
            Self::NotAsked => ("not_asked", "offline"),
        }
    }
}
