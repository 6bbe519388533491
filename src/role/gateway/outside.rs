//! Introspections from outside, where Envoy injects the credential.
//!
//! The credential injector belongs to a cluster, and gives the credential to every request that is routed there.
//! If a client's request to the introspection endpoint is, MAS answers it, and anyone can ask whose any token is.
//! So such a request is refused, and the log tells of a client's route to that cluster. Where the module sends the
//! credential itself, the cluster adds nothing to the requests of clients.
//!
//! The non-obvious rule: which path MAS sees is not known here, since a route may rewrite it. So every path that
//! has the endpoint's name in it, in any encoding, may be an introspection. And if Envoy does not tell where the
//! request goes, it may go there.

use crate::{
    host::{Callback, Host, RequestHead, Streams},
    role::plugin::Plugin,
    text::percent::decode_to_the_end,
};

/// Tells once for each plugin that the selected request, a client's, is routed to the cluster of the introspections.
/// It passes nevertheless: most of MAS is for clients, and the injected credential does nothing there.
#[inline]
pub(super) fn report_route<H: Host>(cb: &Callback<'_, H>, plugin: &Plugin) {
    if plugin.is_injected {
        report_route_to_injector(cb, plugin);
    }
}

#[inline(never)]
fn report_route_to_injector<H: Host>(cb: &Callback<'_, H>, plugin: &Plugin) {
    let settings = &plugin.config.introspection;
    if !plugin.route_watch.admit() {
        return;
    }
    let cluster = cb.host.route_cluster();
    if cluster.is_some_and(|cluster| cluster == settings.cluster.as_bytes()) {
        plugin.route_watch.note_report();
        log::warn!(
            "requests of clients are routed to the cluster {}, which injects the credential for introspections: \
             give them a cluster of their own",
            settings.cluster
        );
    }
}

/// Returns whether the selected request may be an introspection that MAS would answer. It is refused. Shadow mode is no
/// exception: the way to MAS is open only because of this module's configuration.
#[inline]
pub(super) fn is_introspection(host: &impl Streams, plugin: &Plugin, head: &RequestHead) -> bool {
    let settings = &plugin.config.introspection;
    plugin.is_injected
        && may_be_introspection(&settings.path, head.target())
        && host
            .route_cluster()
            .is_none_or(|cluster| cluster == settings.cluster.as_bytes())
}

/// Whether a server may take `target` for the endpoint `endpoint`, the path that introspections have.
fn may_be_introspection(endpoint: &str, target: &[u8]) -> bool {
    let name = endpoint
        .split(['?', '#'])
        .next()
        .and_then(|path| path.rsplit('/').find(|segment| !segment.is_empty()))
        .unwrap_or_default();
    let name = decode_to_the_end(name.as_bytes());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or(target);
    let path = decode_to_the_end(path);
    // The root itself as the endpoint: any path may be rewritten to it.
    name.is_empty()
        || path
            .windows(name.len())
            .any(|window| window.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_endpoint_may_be_an_introspection() {
        for target in [
            "/oauth2/introspect",
            "/oauth2/introspect/",
            "//oauth2//introspect",
            "/oauth2/introspect?x=y",
            "/auth/oauth2/INTROSPECT",
            "/oauth2/introspect;v=1",
            "/oauth2/introspect%3Fx",
            "/oauth2%2Fintrospect",
            "/oauth2/%69ntrospect",
            "/oauth2/%2569ntrospect",
            "/oauth2/%2525%36%39ntrospect",
            "/x/..%2foauth2/introspect",
            "/oauth2/introspect/x/..",
            "http://auth.example.org/oauth2/introspect",
        ] {
            assert!(
                may_be_introspection("/oauth2/introspect", target.as_bytes()),
                "{target}"
            );
        }
        for target in [
            "",
            "/",
            "/oauth2/token",
            "/oauth2/revoke",
            "/oauth2/introspec",
            "/login?next=/oauth2/introspect",
            "/oauth2/intro%spect",
        ] {
            assert!(
                !may_be_introspection("/oauth2/introspect", target.as_bytes()),
                "{target}"
            );
        }
    }

    #[test]
    fn the_endpoint_is_known_by_its_last_name() {
        for endpoint in ["/x/check", "/check/", "/x/%63heck", "/check?tenant=a"] {
            assert!(may_be_introspection(endpoint, b"/y/check"), "{endpoint}");
            assert!(!may_be_introspection(endpoint, b"/x"), "{endpoint}");
        }
        for endpoint in ["", "/", "//", "/?x"] {
            assert!(may_be_introspection(endpoint, b"/anything"), "{endpoint}");
        }
    }
}
