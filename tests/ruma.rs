//! The built-in endpoint table against the `authentication` of every endpoint that
//! `ruma-client-api` knows, on all of its paths, stable and unstable.
//!
//! Where the two differ, a table says why. A difference that is not listed fails, and so does a
//! listed one that is none.

#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;

use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{self, Appservice, MasOwned, None as Nothing, Optional, Required},
    Method, classify,
};
use ruma_common::api::{Metadata, auth_scheme, path_builder::PathBuilder};

/// Method and path, the edge's answer, and why it is not ruma's.
const DIFFERENCES: [(&str, AuthRequirement, &str); 27] = [
    (
        "POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}",
        Optional,
        CAPABILITY,
    ),
    (
        "POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}",
        Optional,
        CAPABILITY,
    ),
    ("GET /_matrix/client/r0/publicRooms", Optional, CONFIGURED),
    ("GET /_matrix/client/v3/publicRooms", Optional, CONFIGURED),
    (
        "GET /_matrix/client/r0/profile/{user_id}",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/v3/profile/{user_id}",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/r0/profile/{user_id}/avatar_url",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/v3/profile/{user_id}/avatar_url",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/r0/profile/{user_id}/displayname",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/v3/profile/{user_id}/displayname",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/r0/profile/{user_id}/{field}",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/v3/profile/{user_id}/{field}",
        Optional,
        CHECKED,
    ),
    (
        "GET /_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
        Optional,
        CHECKED,
    ),
    ("GET /_matrix/client/r0/login", MasOwned, MAS),
    ("GET /_matrix/client/v3/login", MasOwned, MAS),
    ("POST /_matrix/client/r0/login", MasOwned, MAS),
    ("POST /_matrix/client/v3/login", MasOwned, MAS),
    ("POST /_matrix/client/r0/logout", MasOwned, MAS),
    ("POST /_matrix/client/v3/logout", MasOwned, MAS),
    ("POST /_matrix/client/r0/logout/all", MasOwned, MAS),
    ("POST /_matrix/client/v3/logout/all", MasOwned, MAS),
    ("POST /_matrix/client/v3/refresh", MasOwned, MAS),
    (
        "POST /_matrix/client/unstable/org.matrix.msc2918/refresh",
        MasOwned,
        MAS,
    ),
    ("GET /_matrix/client/r0/login/sso/redirect", MasOwned, MAS),
    ("GET /_matrix/client/v3/login/sso/redirect", MasOwned, MAS),
    (
        "GET /_matrix/client/v3/login/sso/redirect/{idp_id}",
        MasOwned,
        MAS,
    ),
    (
        "GET /_matrix/client/unstable/org.matrix.msc2858/login/sso/redirect/{idp_id}",
        MasOwned,
        MAS,
    ),
];
const CAPABILITY: &str = "Synapse takes the delay id for the credential, but refuses a bad token";
const CHECKED: &str = "Synapse refuses a bad token, and may be told to require a good one";
const CONFIGURED: &str = "Synapse requires a token unless allow_public_rooms_without_auth is set";
const MAS: &str = "MAS answers, and judges the credentials itself";

#[test]
fn the_table_agrees_with_ruma() {
    let mut differences: BTreeMap<_, _> = DIFFERENCES
        .iter()
        .map(|(endpoint, found, _)| (*endpoint, *found))
        .collect();
    let mut wrong = Vec::new();
    for Endpoint {
        name,
        method,
        paths,
        requirement,
    } in endpoints()
    {
        for path in paths {
            let sample = sample(path);
            let found = classify(sample.as_bytes(), Method::from_bytes(method.as_bytes()));
            match differences.remove(&*format!("{method} {path}")) {
                Some(difference) if found == difference && found != requirement => {}
                None if found == requirement => {}
                _ => wrong.push(format!(
                    "{method} {path} ({name}): {requirement:?} in ruma, {found:?} found"
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(differences.is_empty(), "no differences: {differences:?}");
}

/// What ruma says of an endpoint.
struct Endpoint {
    /// Module of the crate.
    name: &'static str,
    method: String,
    paths: Vec<&'static str>,
    requirement: AuthRequirement,
}

impl Endpoint {
    fn of<R>(name: &'static str) -> Self
    where
        R: Metadata,
        R::Authentication: Requirement,
    {
        Self {
            name,
            method: R::METHOD.as_str().to_owned(),
            paths: R::PATH_BUILDER.all_paths().collect(),
            requirement: R::Authentication::REQUIREMENT,
        }
    }
}

/// The requirement that an authentication scheme of ruma stands for.
trait Requirement {
    const REQUIREMENT: AuthRequirement;
}

impl Requirement for auth_scheme::AccessToken {
    const REQUIREMENT: AuthRequirement = Required;
}

impl Requirement for auth_scheme::AccessTokenOptional {
    const REQUIREMENT: AuthRequirement = Optional;
}

impl Requirement for auth_scheme::AppserviceToken {
    const REQUIREMENT: AuthRequirement = Appservice;
}

impl Requirement for auth_scheme::AppserviceTokenOptional {
    const REQUIREMENT: AuthRequirement = Appservice;
}

impl Requirement for auth_scheme::NoAccessToken {
    const REQUIREMENT: AuthRequirement = Nothing;
}

/// `path` with one segment for each of its parameters.
fn sample(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if segment.starts_with('{') {
            "%21x%3Aexample.org"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

macro_rules! endpoints {
    ($($($module:ident)::+,)+) => {
        [$(Endpoint::of::<ruma_client_api::$($module)::+::Request>(
            stringify!($($module)::+)
        ),)+]
    };
}

/// Every module of ruma-client-api 0.25.2 with a `metadata!`: it keeps no list of its own. After an
/// update, compare with `grep -r 'metadata! {'` in its source, and with its features.
#[expect(deprecated, reason = "clients still use what ruma would rather not")]
fn endpoints() -> impl IntoIterator<Item = Endpoint> {
    endpoints![
        account::add_3pid::v3,
        account::bind_3pid::v3,
        account::change_password::v3,
        account::check_registration_token_validity::v1,
        account::deactivate::v3,
        account::delete_3pid::v3,
        account::get_3pids::v3,
        account::get_username_availability::v3,
        account::register::v3,
        account::request_3pid_management_token_via_email::v3,
        account::request_3pid_management_token_via_msisdn::v3,
        account::request_openid_token::v3,
        account::request_password_change_token_via_email::v3,
        account::request_password_change_token_via_msisdn::v3,
        account::request_registration_token_via_email::v3,
        account::request_registration_token_via_msisdn::v3,
        account::unbind_3pid::v3,
        account::whoami::v3,
        admin::get_user_info::v3,
        admin::is_user_locked::v1,
        admin::is_user_suspended::v1,
        admin::lock_user::v1,
        admin::suspend_user::v1,
        alias::create_alias::v3,
        alias::delete_alias::v3,
        alias::get_alias::v3,
        appservice::request_ping::v1,
        appservice::set_room_visibility::v3,
        authenticated_media::get_content::v1,
        authenticated_media::get_content_as_filename::v1,
        authenticated_media::get_content_thumbnail::v1,
        authenticated_media::get_media_config::v1,
        authenticated_media::get_media_preview::v1,
        backup::add_backup_keys::v3,
        backup::add_backup_keys_for_room::v3,
        backup::add_backup_keys_for_session::v3,
        backup::create_backup_version::v3,
        backup::delete_backup_keys::v3,
        backup::delete_backup_keys_for_room::v3,
        backup::delete_backup_keys_for_session::v3,
        backup::delete_backup_version::v3,
        backup::get_backup_info::v3,
        backup::get_backup_keys::v3,
        backup::get_backup_keys_for_room::v3,
        backup::get_backup_keys_for_session::v3,
        backup::get_latest_backup_info::v3,
        backup::update_backup_version::v3,
        config::get_global_account_data::v3,
        config::get_room_account_data::v3,
        config::set_global_account_data::v3,
        config::set_room_account_data::v3,
        context::get_context::v3,
        dehydrated_device::delete_dehydrated_device::unstable,
        dehydrated_device::get_dehydrated_device::unstable,
        dehydrated_device::get_events::unstable,
        dehydrated_device::put_dehydrated_device::unstable,
        delayed_events::delayed_message_event::unstable,
        delayed_events::delayed_state_event::unstable,
        delayed_events::get_all_delayed_events::unstable,
        delayed_events::get_delayed_event::unstable,
        delayed_events::send_delayed_event::unstable,
        delayed_events::update_delayed_event::unstable_v2,
        delayed_events::update_delayed_event::unstable_v1,
        device::delete_device::v3,
        device::delete_devices::v3,
        device::get_device::v3,
        device::get_devices::v3,
        device::update_device::v3,
        directory::get_public_rooms::v3,
        directory::get_public_rooms_filtered::v3,
        directory::get_room_visibility::v3,
        directory::set_room_visibility::v3,
        discovery::discover_homeserver,
        discovery::discover_policy_server,
        discovery::discover_support,
        discovery::get_authorization_server_metadata::v1,
        discovery::get_capabilities::v3,
        discovery::get_supported_versions,
        filter::create_filter::v3,
        filter::get_filter::v3,
        keys::claim_keys::v3,
        keys::claim_keys::v4,
        keys::get_key_changes::v3,
        keys::get_keys::v3,
        keys::upload_keys::v3,
        keys::upload_signatures::v3,
        keys::upload_signing_keys::v3,
        knock::knock_room::v3,
        media::create_content::v3,
        media::create_content_async::v3,
        media::create_mxc_uri::v1,
        media::get_content::v3,
        media::get_content_as_filename::v3,
        media::get_content_thumbnail::v3,
        media::get_media_config::v3,
        media::get_media_preview::v3,
        membership::ban_user::v3,
        membership::forget_room::v3,
        membership::get_member_events::v3,
        membership::get_mutual_rooms::unstable,
        membership::get_mutual_rooms::v1,
        membership::invite_user::v3,
        membership::join_room_by_id::v3,
        membership::join_room_by_id_or_alias::v3,
        membership::joined_members::v3,
        membership::joined_rooms::v3,
        membership::kick_user::v3,
        membership::leave_room::v3,
        membership::unban_user::v3,
        message::get_message_events::v3,
        message::send_message_event::v3,
        peeking::get_current_state::v3,
        peeking::listen_to_new_events::v3,
        presence::get_presence::v3,
        presence::set_presence::v3,
        profile::delete_profile_field::v3,
        profile::get_avatar_url::v3,
        profile::get_display_name::v3,
        profile::get_profile::v3,
        profile::get_profile_field::v3,
        profile::query_profile::unstable,
        profile::set_avatar_url::v3,
        profile::set_display_name::v3,
        profile::set_profile_field::v3,
        push::delete_pushrule::v3,
        push::get_notifications::v3,
        push::get_pushers::v3,
        push::get_pushrule::v3,
        push::get_pushrule_actions::v3,
        push::get_pushrule_enabled::v3,
        push::get_pushrules_all::v3,
        push::get_pushrules_global_scope::v3,
        push::set_pusher::v3,
        push::set_pushrule::v3,
        push::set_pushrule_actions::v3,
        push::set_pushrule_enabled::v3,
        read_marker::set_read_marker::v3,
        receipt::create_receipt::v3,
        redact::redact_event::v3,
        relations::get_relating_events::v1,
        relations::get_relating_events_with_rel_type::v1,
        relations::get_relating_events_with_rel_type_and_event_type::v1,
        rendezvous::create_rendezvous_session::unstable_msc4108,
        rendezvous::create_rendezvous_session::unstable_msc4388,
        rendezvous::delete_rendezvous_session::unstable,
        rendezvous::discover_rendezvous::unstable,
        rendezvous::get_rendezvous_session::unstable,
        rendezvous::update_rendezvous_session::unstable,
        reporting::report_user::v3,
        retention::get_retention_configuration::unstable,
        room::aliases::v3,
        room::create_room::v3,
        room::get_event_by_timestamp::v1,
        room::get_room_event::v3,
        room::get_summary::v1,
        room::report_content::v3,
        room::report_room::v3,
        room::upgrade_room::v3,
        rtc::livekit::delegate_delayed_leave::v1,
        rtc::livekit::get_token::v1,
        rtc::transports::v1,
        search::search_events::v3,
        session::get_login_token::v1,
        session::get_login_types::v3,
        session::login::v3,
        session::login_fallback,
        session::logout::v3,
        session::logout_all::v3,
        session::refresh_token::v3,
        session::sso_login::v3,
        session::sso_login_with_provider::v3,
        space::get_hierarchy::v1,
        state::get_state_event_for_key::v3,
        state::get_state_events::v3,
        state::get_stripped_state::unstable,
        state::send_state_event::v3,
        sync::sync_events::v3,
        sync::sync_events::v5,
        tag::create_tag::v3,
        tag::delete_tag::v3,
        tag::get_tags::v3,
        thirdparty::get_location_for_protocol::v3,
        thirdparty::get_location_for_room_alias::v3,
        thirdparty::get_protocol::v3,
        thirdparty::get_protocols::v3,
        thirdparty::get_user_for_protocol::v3,
        thirdparty::get_user_for_user_id::v3,
        threads::get_thread_subscription::unstable,
        threads::get_thread_subscriptions_changes::unstable,
        threads::get_threads::v1,
        threads::subscribe_thread::unstable,
        threads::unsubscribe_thread::unstable,
        to_device::send_event_to_device::v3,
        typing::create_typing_event::v3,
        uiaa::get_uiaa_fallback_page::v3,
        user_directory::search_users::v3,
        voip::get_turn_server_info::v3,
    ]
}
