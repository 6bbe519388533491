//! Ways into listeners with TLS, for clients that speak none: an Envoy that does nothing else.

use std::{net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::envoy::Envoy;

/// One way in.
pub struct Way {
    /// How a test calls it.
    pub name: &'static str,
    /// The listener with TLS.
    pub to: SocketAddr,
    /// The protocol that is agreed on (ALPN, RFC 7301).
    pub protocol: &'static str,
    /// The address of loopback that the connection comes from.
    pub from: &'static str,
}

/// Makes a certificate of its own issuer for these names, as `fullchain.pem` and `privkey.pem` in `dir`.
pub fn make_certificate(dir: &Path, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-addext", &format!("subjectAltName={}", names.join(","))])
        .args(["-keyout", "privkey.pem", "-out", "fullchain.pem"])
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
}

/// Starts an Envoy with a listener for each way, which takes bytes and sends them on in TLS. It trusts `issuer`.
pub async fn start(ways: Vec<Way>, issuer: &Path) -> Envoy {
    let issuer = issuer.to_owned();
    Envoy::builder()
        .bootstrap(move |config| {
            let listeners: Vec<Value> = ways.iter().map(|way| listener(way.name)).collect();
            let clusters: Vec<Value> = ways.iter().map(|way| cluster(way, &issuer)).collect();
            config["static_resources"] = json!({"listeners": listeners, "clusters": clusters});
        })
        .start()
        .await
}

fn listener(name: &str) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": name,
            },
        }]}],
    })
}

fn cluster(way: &Way, issuer: &Path) -> Value {
    json!({
        "name": way.name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "upstream_bind_config": {"source_address": {"address": way.from, "port_value": 0}},
        "load_assignment": {
            "cluster_name": way.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": way.to.ip().to_string(),
                "port_value": way.to.port(),
            }}}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "matrix.example.org",
                "common_tls_context": {
                    "alpn_protocols": [way.protocol],
                    "validation_context": {
                        "trusted_ca": {"filename": issuer},
                        "match_typed_subject_alt_names": [
                            {"san_type": "DNS", "matcher": {"exact": "matrix.example.org"}},
                        ],
                    },
                },
            },
        },
    })
}
