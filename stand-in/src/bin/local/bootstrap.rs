//! `envoy/local/envoy.yaml`: which ports it names, and a copy with others.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::page::Cache;

use crate::{Failure, upstream::Upstream};

/// Where Envoy finds the certificate authorities that the system trusts, by distribution.
const TRUSTED_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// The places in a listener (JSON pointers) that have no name of their own.
const MODULE_CONFIGURATION: &str = "/filter_chains/0/filters/0/typed_config/\
                                    http_filters/0/typed_config/config/configuration/value";
const VIRTUAL_HOSTS: &str = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";

/// The clusters of MAS: for clients, for Synapse, and for the module's own calls.
const MAS_CLUSTERS: [&str; 3] = ["mas", "mas-for-synapse", "mas-introspection"];

/// The clusters of the homeserver: for all but media, and for media.
const HOMESERVER_CLUSTERS: [&str; 2] = ["homeserver", "homeserver-media"];

/// The listeners of the file, by their names there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Listener {
    /// Where clients connect.
    Gateway,
    /// Where Synapse asks MAS.
    Introspection,
    /// Where MAS tells the homeserver.
    Provisioning,
}

impl Listener {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Gateway, Self::Introspection, Self::Provisioning];

    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "matrix",
            Self::Introspection => "introspection",
            Self::Provisioning => "provisioning",
        }
    }

    /// As the user is told of it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Gateway => "the gateway",
            Self::Introspection => "the listener for Synapse's introspections",
            Self::Provisioning => "the listener for MAS's provisioning",
        }
    }
}

/// The Envoy configuration, as a value that can be changed.
pub(crate) struct Bootstrap {
    path: PathBuf,
    original: Value,
    value: Value,
}

impl Bootstrap {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display()))
                .hint("run this from the root of the repository")
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self {
            path: path.to_owned(),
            original: value.clone(),
            value,
        })
    }

    /// The file to give to Envoy: itself, or a changed copy of it under the target directory.
    pub(crate) fn write(&self) -> Result<PathBuf, Failure> {
        if self.value == self.original {
            return Ok(self.path.clone());
        }
        let directory = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from("target"), PathBuf::from)
            .join("local");
        let copy = directory.join("envoy.yaml");
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot write {}: {error}", copy.display()))
        };
        let yaml = serde_saphyr::to_string(&self.value).map_err(|error| cannot(&error))?;
        let text = format!(
            "# Made by `make run` from {}; it is written anew each time.\n{yaml}",
            self.path.display()
        );
        fs::create_dir_all(&directory).map_err(|error| cannot(&error))?;
        fs::write(&copy, text).map_err(|error| cannot(&error))?;
        Ok(copy)
    }

    pub(crate) fn admin(&self) -> Result<SocketAddr, Failure> {
        self.address("/admin/address/socket_address")
    }

    pub(crate) fn set_admin(&mut self, to: SocketAddr) -> Result<(), Failure> {
        self.set_address("/admin/address/socket_address", to)
    }

    pub(crate) fn listener(&self, listener: Listener) -> Result<SocketAddr, Failure> {
        let place = self.named("listeners", listener.name())?;
        self.address(&format!("{place}/address/socket_address"))
    }

    pub(crate) fn set_listener(
        &mut self,
        listener: Listener,
        to: SocketAddr,
    ) -> Result<(), Failure> {
        let place = self.named("listeners", listener.name())?;
        self.set_address(&format!("{place}/address/socket_address"), to)
    }

    pub(crate) fn mas(&self) -> Result<SocketAddr, Failure> {
        self.address(&self.endpoint(MAS_CLUSTERS[0])?)
    }

    pub(crate) fn set_mas(&mut self, to: SocketAddr) -> Result<(), Failure> {
        for cluster in MAS_CLUSTERS {
            self.set_address(&self.endpoint(cluster)?, to)?;
        }
        Ok(())
    }

    pub(crate) fn homeserver(&self) -> Result<SocketAddr, Failure> {
        self.address(&self.endpoint(HOMESERVER_CLUSTERS[0])?)
    }

    pub(crate) fn set_homeserver(&mut self, to: SocketAddr) -> Result<(), Failure> {
        for cluster in HOMESERVER_CLUSTERS {
            self.set_address(&self.endpoint(cluster)?, to)?;
        }
        Ok(())
    }

    /// The part after the colon in user ids.
    pub(crate) fn set_server_name(&mut self, name: &str) -> Result<(), Failure> {
        for listener in [Listener::Gateway, Listener::Provisioning] {
            *self.module(listener, "server_name")? = json!(name);
        }
        Ok(())
    }

    /// How long the gateway keeps answers; what the file does not say is the module's default.
    pub(crate) fn cache(&self) -> Result<Cache, Failure> {
        let place = self.named("listeners", Listener::Gateway.name())?;
        let place = format!("{place}{MODULE_CONFIGURATION}/cache");
        let time =
            |key: &str, default: Duration| match self.value.pointer(&format!("{place}/{key}")) {
                None => Ok(default),
                Some(value) => value
                    .as_str()
                    .and_then(duration)
                    .ok_or_else(|| self.lacks(&format!("a duration at {place}/{key}"))),
            };
        Ok(Cache {
            ttl: time("ttl", Duration::from_secs(120))?,
            negative_ttl: time("negative_ttl", Duration::from_secs(10))?,
            stale_if_error: time("stale_if_error", Duration::ZERO)?,
        })
    }

    /// A real MAS: its clusters, the authority of introspections, and that of the login routes.
    pub(crate) fn point_mas_at(&mut self, upstream: &Upstream) -> Result<(), Failure> {
        for listener in Listener::ALL {
            *self.module(listener, "introspection/authority")? = json!(upstream.authority);
        }
        for cluster in MAS_CLUSTERS {
            self.point_at(cluster, upstream)?;
        }
        Ok(())
    }

    /// A real homeserver.
    pub(crate) fn point_homeserver_at(&mut self, upstream: &Upstream) -> Result<(), Failure> {
        for cluster in HOMESERVER_CLUSTERS {
            self.point_at(cluster, upstream)?;
        }
        Ok(())
    }

    fn point_at(&mut self, name: &str, upstream: &Upstream) -> Result<(), Failure> {
        let endpoint = self.endpoint(name)?;
        *self.at(&endpoint)? = json!({ "address": upstream.host, "port_value": upstream.port });
        let cluster = self.cluster(name)?;
        if upstream.ip().is_none() {
            *self.at(&format!("{cluster}/type"))? = json!("STRICT_DNS");
            self.object(&cluster)?
                .insert("dns_lookup_family".to_owned(), json!("V4_PREFERRED"));
        }
        if upstream.tls {
            let socket = transport_socket(upstream)?;
            self.object(&cluster)?
                .insert("transport_socket".to_owned(), socket);
        }
        for listener in Listener::ALL {
            for action in self.route_actions(listener)? {
                if action.get("cluster").and_then(Value::as_str) == Some(name) {
                    action.insert("host_rewrite_literal".to_owned(), json!(upstream.authority));
                }
            }
        }
        Ok(())
    }

    /// What a listener's routes do.
    fn route_actions(
        &mut self,
        listener: Listener,
    ) -> Result<impl Iterator<Item = &mut serde_json::Map<String, Value>>, Failure> {
        let place = self.named("listeners", listener.name())?;
        let hosts = self.at(&format!("{place}{VIRTUAL_HOSTS}"))?.as_array_mut();
        Ok(hosts
            .into_iter()
            .flatten()
            .filter_map(|host| host.get_mut("routes")?.as_array_mut())
            .flatten()
            .filter_map(|route| route.get_mut("route")?.as_object_mut()))
    }

    /// A key of the module's configuration in a listener.
    fn module(&mut self, listener: Listener, key: &str) -> Result<&mut Value, Failure> {
        let place = self.named("listeners", listener.name())?;
        self.at(&format!("{place}{MODULE_CONFIGURATION}/{key}"))
    }

    fn cluster(&self, name: &str) -> Result<String, Failure> {
        self.named("clusters", name)
    }

    /// The place of a listener or a cluster.
    fn named(&self, kind: &str, name: &str) -> Result<String, Failure> {
        let list = self.value.pointer(&format!("/static_resources/{kind}"));
        list.and_then(Value::as_array)
            .into_iter()
            .flatten()
            .position(|one| one.get("name").and_then(Value::as_str) == Some(name))
            .map(|at| format!("/static_resources/{kind}/{at}"))
            .ok_or_else(|| self.lacks(&format!("one named {name} among its {kind}")))
    }

    /// The place of the address of a cluster's only endpoint.
    fn endpoint(&self, name: &str) -> Result<String, Failure> {
        let cluster = self.cluster(name)?;
        Ok(format!(
            "{cluster}/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address"
        ))
    }

    fn address(&self, at: &str) -> Result<SocketAddr, Failure> {
        let parse = || {
            let address = self.value.pointer(at)?;
            let ip: IpAddr = address.get("address")?.as_str()?.parse().ok()?;
            let port = u16::try_from(address.get("port_value")?.as_u64()?).ok()?;
            Some(SocketAddr::new(ip, port))
        };
        parse().ok_or_else(|| self.lacks(&format!("an IP address and a port at {at}")))
    }

    fn set_address(&mut self, at: &str, to: SocketAddr) -> Result<(), Failure> {
        *self.at(at)? = json!({ "address": to.ip().to_string(), "port_value": to.port() });
        Ok(())
    }

    fn object(&mut self, at: &str) -> Result<&mut serde_json::Map<String, Value>, Failure> {
        let lacks = self.lacks(at);
        self.value
            .pointer_mut(at)
            .and_then(Value::as_object_mut)
            .ok_or(lacks)
    }

    fn at(&mut self, at: &str) -> Result<&mut Value, Failure> {
        let lacks = self.lacks(at);
        self.value.pointer_mut(at).ok_or(lacks)
    }

    fn lacks(&self, what: &str) -> Failure {
        Failure::new(format!("{} lacks {what}", self.path.display()))
            .hint("`make run` relies on the shape of that file; restore it, or run Envoy yourself")
    }
}

/// TLS to a real server: named and checked as the URL names it. Envoy checks nothing unless told.
fn transport_socket(upstream: &Upstream) -> Result<Value, Failure> {
    let san_type = if upstream.ip().is_some() {
        "IP_ADDRESS"
    } else {
        "DNS"
    };
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": { "filename": trusted_certificates()? },
                "match_typed_subject_alt_names": [{ "san_type": san_type, "matcher": { "exact": upstream.host } }],
            },
        },
    });
    if upstream.ip().is_none() {
        // RFC 6066: no address in SNI.
        tls["sni"] = json!(upstream.host);
    }
    Ok(json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls }))
}

/// A duration as the module's configuration has it: `500ms`, `120s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
        _ => None,
    }
}

fn trusted_certificates() -> Result<String, Failure> {
    env::var("SSL_CERT_FILE")
        .ok()
        .or_else(|| {
            TRUSTED_CERTIFICATES
                .iter()
                .find(|file| Path::new(file).exists())
                .map(|file| (*file).to_owned())
        })
        .ok_or_else(|| {
            Failure::new("no trusted certificates found for https")
                .hint("install the package ca-certificates, or set SSL_CERT_FILE")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../../envoy/local/envoy.yaml");
    const STATS_TAGS: &str = include_str!("../../../../envoy/stats_tags.yaml");

    fn shipped() -> Bootstrap {
        Bootstrap::parse(Path::new("envoy.yaml"), SHIPPED).expect("the shipped file parses")
    }

    #[test]
    fn the_shipped_file_listens_on_loopback_and_is_used_as_it_is() {
        let mut bootstrap = shipped();
        let admin = bootstrap.admin().expect("admin");
        let listeners = Listener::ALL
            .map(|listener| (listener, bootstrap.listener(listener).expect("listener")));
        let (mas, homeserver) = (
            bootstrap.mas().expect("mas"),
            bootstrap.homeserver().expect("homeserver"),
        );
        for addr in [admin, mas, homeserver] {
            assert!(addr.ip().is_loopback(), "{addr}");
        }
        for (listener, addr) in listeners {
            assert!(addr.ip().is_loopback(), "{addr}");
            bootstrap.set_listener(listener, addr).expect("listener");
        }
        bootstrap.set_admin(admin).expect("admin");
        bootstrap.set_mas(mas).expect("mas");
        bootstrap.set_homeserver(homeserver).expect("homeserver");
        assert_eq!(
            bootstrap.write().expect("nothing to write"),
            Path::new("envoy.yaml")
        );
    }

    #[test]
    fn other_ports_change_nothing_else() {
        let mut bootstrap = shipped();
        let other: SocketAddr = "127.0.0.1:4".parse().expect("an address");
        bootstrap.set_mas(other).expect("mas");
        assert_eq!(bootstrap.mas().expect("mas"), other);
        let was = shipped().mas().expect("mas");
        bootstrap.set_mas(was).expect("mas");
        assert_eq!(bootstrap.value, shipped().value);
    }

    #[test]
    fn a_copy_says_the_same_as_the_original() {
        let value = shipped().value;
        let copy = serde_saphyr::to_string(&value).expect("YAML");
        assert_eq!(serde_saphyr::from_str::<Value>(&copy).expect("YAML"), value);
    }

    #[test]
    fn a_real_homeserver_by_name() {
        let mut bootstrap = shipped();
        let upstream =
            Upstream::parse("HOMESERVER_URL", "http://matrix.example.org:8008").expect("a URL");
        bootstrap
            .point_homeserver_at(&upstream)
            .expect("the shipped shape");
        let cluster = &bootstrap.value["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert!(cluster["transport_socket"].is_null());
        for (listener, of_homeserver) in [
            (Listener::Gateway, 3),
            (Listener::Introspection, 0),
            (Listener::Provisioning, 1),
        ] {
            let actions = bootstrap.route_actions(listener).expect("routes");
            let rewritten = actions.filter(|action| {
                let name = action.get("host_rewrite_literal");
                let is_homeserver = HOMESERVER_CLUSTERS.map(|cluster| action["cluster"] == cluster);
                assert_eq!(name.is_some(), is_homeserver.contains(&true));
                name.is_some_and(|name| name == "matrix.example.org:8008")
            });
            assert_eq!(rewritten.count(), of_homeserver, "{listener:?}");
        }
    }

    #[test]
    fn a_real_mas_over_https() {
        let mut bootstrap = shipped();
        let upstream = Upstream::parse("MAS_URL", "https://auth.example.net").expect("a URL");
        // A machine without trusted certificates cannot do TLS, and says so.
        if let Err(failure) = bootstrap.point_mas_at(&upstream) {
            assert!(
                failure.message.contains("trusted certificates"),
                "{failure:?}"
            );
            return;
        }
        for name in MAS_CLUSTERS {
            let place = bootstrap.cluster(name).expect("a cluster");
            let cluster = bootstrap.value.pointer(&place).expect("its place");
            let tls = &cluster["transport_socket"]["typed_config"];
            assert_eq!(tls["sni"], "auth.example.net", "{cluster}");
            let context = &tls["common_tls_context"]["validation_context"];
            assert_eq!(
                context["match_typed_subject_alt_names"][0]["matcher"]["exact"],
                "auth.example.net"
            );
        }
        for listener in Listener::ALL {
            let authority = bootstrap.module(listener, "introspection/authority");
            assert_eq!(authority.expect("authority"), "auth.example.net");
        }
    }

    /// An injector in the cluster of the introspections would answer for every client that is routed there.
    #[test]
    fn no_route_leads_to_the_cluster_of_the_introspections() {
        let mut bootstrap = shipped();
        for listener in Listener::ALL {
            let cluster = bootstrap.module(listener, "introspection/cluster");
            let cluster = cluster.expect("cluster").clone();
            assert_eq!(cluster, MAS_CLUSTERS[2]);
            let actions = bootstrap.route_actions(listener).expect("routes");
            for action in actions {
                assert_ne!(action["cluster"], cluster, "{listener:?}");
            }
        }
    }

    #[test]
    fn the_stats_tags_are_those_that_stand_alone() {
        let alone: Value = serde_saphyr::from_str(STATS_TAGS).expect("YAML");
        assert_eq!(shipped().value["stats_config"], alone["stats_config"]);
    }

    #[test]
    fn how_long_answers_hold_is_read() {
        let mut bootstrap = shipped();
        let read = |bootstrap: &Bootstrap| {
            let cache = bootstrap.cache().expect("durations");
            [cache.ttl, cache.negative_ttl, cache.stale_if_error].map(|time| time.as_millis())
        };
        assert_eq!(read(&bootstrap), [120_000, 10_000, 0]);
        let cache = bootstrap.module(Listener::Gateway, "cache");
        *cache.expect("cache") =
            json!({"ttl": "2m", "stale_if_error": "1h", "negative_ttl": "500ms"});
        assert_eq!(read(&bootstrap), [120_000, 500, 3_600_000]);
        let cache = bootstrap.module(Listener::Gateway, "cache");
        *cache.expect("cache") = json!({"ttl": 120});
        assert!(bootstrap.cache().is_err());
        assert_eq!(duration("s"), None);
        assert_eq!(duration("10"), None);
        assert_eq!(duration("1d"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let bootstrap =
            Bootstrap::parse(Path::new("x.yaml"), "static_resources: {}").expect("YAML");
        assert!(
            bootstrap
                .mas()
                .is_err_and(|failure| failure.message.contains("one named mas among its clusters"))
        );
        assert!(
            bootstrap
                .admin()
                .is_err_and(|failure| failure.message.contains("/admin/"))
        );
    }
}
