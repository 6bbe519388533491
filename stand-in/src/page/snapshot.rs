//! All that the page shows, at one moment.
//!
//! Snapshots are taken one after the other, and number `serial` says in which order: a page that gets two of them from
//! different requests shows the later one. Figures that nobody could read are absent, never 0.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Cache, Member, Shared, edge::Stats, estimate::Said, herd, journal::Entry, millis};
use crate::mas::Mas;

/// The listeners and the clusters of `envoy/local/envoy.yaml` between which a request may wait.
const LISTENERS: [&str; 3] = ["matrix", "introspection", "provisioning"];
const ROUTED_CLUSTERS: [&str; 2] = ["homeserver", "mas"];
/// The verdicts that spare a call if none was made for them.
const VERDICTS: [&str; 2] = ["active", "inactive"];
/// The sources that are a cache.
const CACHES: [&str; 3] = ["local", "shared", "stale"];
/// The outcomes of questions that never left the edge.
const NOT_SENT: [&str; 2] = ["overloaded", "undeliverable"];

/// Counts the snapshots.
#[derive(Default)]
pub(super) struct Figures {
    serial: tokio::sync::Mutex<u64>,
}

/// What the page shows.
#[derive(Serialize)]
pub(super) struct Snapshot {
    serial: u64,
    now_ms: u64,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
struct Content {
    /// Where clients find the edge.
    gateway: String,
    /// `None`: Envoy does not answer.
    edge: Option<EdgeFigures>,
    mas: MasFigures,
    members: Vec<MemberState>,
    herd: herd::State,
    journal: Vec<Entry>,
    cache: Cache,
}

/// By verdict, then by its source.
type Verdicts = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Serialize)]
struct EdgeFigures {
    /// Requests of clients.
    requests: Verdicts,
    /// Questions of the homeserver.
    answers: Verdicts,
    /// Verdicts out of a cache.
    from_cache: u64,
    /// Calls to MAS that were sent, as the edge counts them.
    calls: u64,
    /// How they ended.
    outcomes: BTreeMap<String, u64>,
    /// Verdicts for which no call was made.
    spared: u64,
    /// Requests that joined a call under way.
    coalesced: u64,
    /// Requests that are held at the edge now.
    waiting: u64,
    /// Calls under way now.
    in_flight: u64,
    rejections: BTreeMap<String, u64>,
    invalidations: BTreeMap<String, u64>,
    /// Requests that reached the homeserver, MAS's among them.
    reached_homeserver: u64,
}

#[derive(Serialize)]
struct MasFigures {
    is_up: bool,
    /// Introspections received.
    calls: u64,
    under_way: u64,
    faults: Vec<String>,
}

#[derive(Serialize)]
struct MemberState {
    id: Member,
    title: &'static str,
    user: Option<&'static str>,
    device: Option<&'static str>,
    at_mas: AtMas,
    /// How often MAS was asked about the token.
    calls: u64,
    cached: Option<CachedState>,
}

/// What a token is to MAS.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum AtMas {
    Active,
    Locked,
    LoggedOut,
    Expired,
    Unknown,
    /// Its session begins with its button.
    NotBegun,
}

/// What the edge has of a token; an estimate.
#[derive(Serialize)]
struct CachedState {
    said: Said,
    until_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<&'static str>,
}

impl Snapshot {
    /// What it says, without the time: two that say the same are shown once.
    pub(super) fn content(&self) -> String {
        serde_json::to_string(&self.content).unwrap_or_default()
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        let edge = self.content.edge.as_ref();
        self.content.herd.is_running()
            || self.content.mas.under_way > 0
            || edge.is_some_and(|edge| edge.waiting > 0 || edge.in_flight > 0)
    }
}

/// Reads all figures.
pub(super) async fn take(shared: &Shared) -> Snapshot {
    let mut serial = shared.figures.serial.lock().await;
    *serial += 1;
    let stats = shared.edge.stats().await;
    let observer = &shared.stack.observer;
    let now_ms = observer.now_ms();
    Snapshot {
        serial: *serial,
        now_ms,
        content: Content {
            gateway: format!("http://{}", shared.stack.gateway),
            edge: stats.as_ref().map(EdgeFigures::read),
            mas: MasFigures::read(&shared.stack.mas),
            members: Member::ALL
                .map(|member| MemberState::read(shared, member, now_ms))
                .into(),
            herd: shared.herd.state(),
            journal: observer.entries(),
            cache: shared.stack.cache,
        },
    }
}

impl EdgeFigures {
    fn read(stats: &Stats) -> Self {
        let requests = verdicts(stats, "requests_total");
        let answers = verdicts(stats, "introspection_answers_total");
        let outcomes = stats.by("introspections_total", "outcome");
        let both = [&requests, &answers];
        let from_cache = both
            .iter()
            .flat_map(|by| by.values())
            .map(|by| sum_of(by, &CACHES));
        let decided = both.iter().flat_map(|by| {
            let of = |verdict: &&str| by.get(*verdict);
            VERDICTS.iter().filter_map(of).flat_map(BTreeMap::values)
        });
        let sent = outcomes.iter();
        let sent = sent.filter(|(outcome, _)| !NOT_SENT.contains(&outcome.as_str()));
        let under_way = |kind: &str, names: &[&str], gauge: &str| -> u64 {
            let names = names.iter();
            names
                .map(|name| stats.of(&format!("{kind}.{name}.{gauge}")))
                .sum()
        };
        let arrived = under_way("http", &LISTENERS, "downstream_rq_active");
        let gone_on = under_way("cluster", &ROUTED_CLUSTERS, "upstream_rq_active");
        Self {
            from_cache: from_cache.sum(),
            calls: sent.map(|(_, count)| count).sum(),
            // A renewal is a call for a request that was answered from the cache: it is taken off.
            spared: decided
                .sum::<u64>()
                .saturating_sub(sum_of(&outcomes, &VERDICTS)),
            coalesced: stats.plain("coalesced_requests_total"),
            waiting: arrived.saturating_sub(gone_on),
            in_flight: stats.of("cluster.mas-introspection.upstream_rq_active"),
            rejections: stats.by("rejections_total", "reason"),
            invalidations: stats.by("invalidations_total", "reason"),
            reached_homeserver: stats.of("cluster.homeserver.upstream_rq_total"),
            requests,
            answers,
            outcomes,
        }
    }
}

fn verdicts(stats: &Stats, metric: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for ((verdict, source), count) in stats.by_two(metric, ["verdict", "source"]) {
        *verdicts
            .entry(verdict)
            .or_default()
            .entry(source)
            .or_default() += count;
    }
    verdicts
}

fn sum_of(by: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| by.get(*name)).sum()
}

impl MasFigures {
    fn read(mas: &Mas) -> Self {
        Self {
            is_up: mas.is_up(),
            calls: mas.total_calls(),
            under_way: mas.under_way(),
            faults: mas.faults(),
        }
    }
}

impl MemberState {
    fn read(shared: &Shared, member: Member, now_ms: u64) -> Self {
        let mas = &shared.stack.mas;
        let token = shared.stack.cast.token(member);
        let life_ms = mas.time_left(&token).map(|left| now_ms + millis(left));
        let cached = shared.stack.observer.cached(member);
        let cached = cached.map(|cached| CachedState {
            // Whole seconds, since what is left of a life is read anew each time.
            until_ms: cached.until_ms(shared.stack.cache, life_ms.map(|ms| ms / 1000 * 1000)),
            said: cached.said,
            ended: cached.ended,
        });
        let is_locked = member.user().is_some_and(|user| mas.is_locked(user));
        let at_mas = match member {
            Member::Expired => AtMas::Expired,
            Member::Unknown => AtMas::Unknown,
            _ if mas.is_active(&token) => AtMas::Active,
            Member::LoggedOut => AtMas::LoggedOut,
            _ if is_locked => AtMas::Locked,
            Member::New | Member::Herd if mas.time_left(&token).is_none() => AtMas::NotBegun,
            _ => AtMas::LoggedOut,
        };
        Self {
            id: member,
            title: member.title(),
            user: member.user(),
            device: member.device(),
            at_mas,
            calls: mas.calls(&token),
            cached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> EdgeFigures {
        EdgeFigures::read(&Stats::parse(text))
    }

    #[test]
    fn a_herd_spares_all_but_one_call() {
        let edge = read(
            "wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=mas: 620\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=shared: 300\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=local: 80\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=not_asked.source=offline: 7\n\
             wasmcustom.matrix_edge_auth_introspections_total.outcome=active: 1\n",
        );
        assert_eq!((edge.calls, edge.spared, edge.from_cache), (1, 999, 380));
    }

    #[test]
    fn what_has_no_verdict_spares_nothing() {
        let edge = read(
            "wasmcustom.matrix_edge_auth_requests_total.verdict=no_verdict.source=mas: 1000\n\
             wasmcustom.matrix_edge_auth_introspections_total.outcome=unreachable: 2\n\
             wasmcustom.matrix_edge_auth_introspections_total.outcome=overloaded: 5\n",
        );
        assert_eq!((edge.calls, edge.spared), (2, 0));
    }

    #[test]
    fn a_request_waits_while_it_is_at_no_upstream() {
        let edge = read(
            "http.matrix.downstream_rq_active: 10\n\
             http.provisioning.downstream_rq_active: 1\n\
             cluster.homeserver.upstream_rq_active: 4\n\
             cluster.mas.upstream_rq_active: 1\n\
             cluster.mas-introspection.upstream_rq_active: 1\n",
        );
        assert_eq!(edge.waiting, 6);
    }
}
