//! A client's route to the cluster that injects the credential: the gateway looks at one request between two ticks, and tells
//! of such a route once.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::json;

use crate::{
    ALICE,
    simulated::{Cluster, Fate, Request, gateway, take_log},
};

/// The cluster of the introspections, and another one.
const INJECTING: &str = "mas";
const OTHER: &str = "homeserver";

fn plugin() -> Rc<Plugin> {
    gateway(
        1,
        json!({"introspection": {"credential": {"injected": true}}}),
    )
}

/// Sends requests that pass, routed to `cluster`. Returns how often the gateway looked where they go.
fn looks(edge: &mut Cluster, gateway: &Rc<Plugin>, cluster: &str, requests: usize) -> u64 {
    let looked = |edge: &Cluster| {
        let calls = edge[0].host_calls();
        calls.get("route cluster").copied().unwrap_or_default()
    };
    let before = looked(edge);
    for _ in 0..requests {
        let request = Request::get("/_matrix/client/versions").cluster(cluster);
        edge[0].request(gateway, request);
    }
    looked(edge) - before
}

/// How often the log has told of the route since the last look.
fn told() -> usize {
    let lines = take_log();
    let told = lines
        .iter()
        .filter(|(_, line)| line.contains(&format!("are routed to the cluster {INJECTING}")));
    told.count()
}

/// A worker that has served one request, which sets its time. The log is empty.
fn start() -> (Cluster, Rc<Plugin>) {
    take_log();
    let (mut edge, gateway) = (Cluster::new(1), plugin());
    looks(&mut edge, &gateway, OTHER, 1);
    (edge, gateway)
}

#[test]
fn one_request_between_two_ticks_is_looked_at() {
    let (mut edge, gateway) = start();
    for _ in 0..4 {
        edge.skip(Duration::from_millis(250));
        assert_eq!(looks(&mut edge, &gateway, OTHER, 50), 1);
    }
    assert_eq!(told(), 0);
}

#[test]
fn a_route_to_the_injecting_cluster_is_told_of_once() {
    let (mut edge, gateway) = start();
    edge.skip(Duration::from_millis(250));
    assert_eq!(looks(&mut edge, &gateway, INJECTING, 50), 1);
    assert_eq!(told(), 1);
    for _ in 0..4 {
        edge.skip(Duration::from_millis(250));
        assert_eq!(looks(&mut edge, &gateway, INJECTING, 50), 0, "it is known");
    }
    assert_eq!(told(), 0);
}

/// Also one that the gateway looks at: here the token of a logout, which MAS ends.
#[test]
fn the_route_of_a_request_that_is_watched_is_looked_at_too() {
    let (mut edge, gateway) = start();
    edge.skip(Duration::from_millis(250));
    let request = Request::new("POST", "/_matrix/client/v3/logout")
        .bearer(ALICE)
        .cluster(INJECTING);
    let fate = edge[0].send(&gateway, request);
    assert_eq!(fate, Fate::forwarded_unannotated());
    assert_eq!(told(), 1);
}
