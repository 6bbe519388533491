//! What the loss of a member costs, and what clients are told who ask while it dies, is away and starts.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use stand_in::mas::Session;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    super::edge::{WHOAMI, assert_no_verdict, assert_not_active, new_token},
    set_ttls,
    site::{Fleet, MEMBERS},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response, within_limit},
};

/// From one turn of a client to the next.
const PACE: Duration = Duration::from_millis(100);
/// How many tokens are counted.
const TOKENS: u64 = 300;
/// Sessions of each client.
const SESSIONS: usize = 1_000;

/// A token and the user whose it is, if it is active.
#[derive(Clone)]
struct Known {
    token: String,
    user: Option<String>,
}

impl Known {
    fn active(fleet: &Fleet, user: &str) -> Self {
        Self {
            token: fleet.session(Session::access(user, "PHONE")),
            user: Some(format!("@{user}:example.org")),
        }
    }

    fn inactive() -> Self {
        Self {
            token: new_token("mat"),
            user: None,
        }
    }

    fn request(&self) -> Request {
        Request::get(WHOAMI).bearer(&self.token)
    }

    /// Fails if somebody else's, or somebody's who has none, is what a client gets, and unless a reply without a verdict
    /// is one of the module's. Whether there was a verdict.
    #[track_caller]
    fn is_verdict(&self, response: &Response) -> bool {
        if response.status == 503 {
            assert_no_verdict(response);
            return false;
        }
        match &self.user {
            Some(user) => {
                assert_eq!(response.status, 200, "{response:?}");
                let told = &response.json()["headers"];
                assert_eq!(told["x-matrix-user-id"], serde_json::json!([user]));
                assert_eq!(told["x-matrix-device-id"], serde_json::json!(["PHONE"]));
            }
            None => assert_not_active(response),
        }
        true
    }
}

/// Asks for each of these.
async fn ask_all(connection: &mut Connection, all: &[Known]) {
    for known in all {
        let response = connection.request(&known.request()).await;
        assert!(known.is_verdict(&response), "{response:?}");
    }
}

/// What a client was told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    verdicts: u64,
    unavailable: u64,
    /// Nobody listened, or the connection ended.
    nothing: u64,
}

/// Clients that go on asking, each with sessions of its own.
struct Clients {
    tasks: JoinSet<()>,
    told: Vec<watch::Receiver<Told>>,
    sessions: Vec<Known>,
}

impl Clients {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            told: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// Clients at the gateway of a member, one for each worker. If `may_end`, each connects again when its connection has
    /// ended; else that is a failure.
    async fn add(&mut self, fleet: &Fleet, member: usize, may_end: bool, inactive: &Arc<[Known]>) {
        for connection in fleet.connections(member).await {
            self.add_one(fleet, member, (connection, may_end), inactive);
        }
    }

    fn add_one(
        &mut self,
        fleet: &Fleet,
        member: usize,
        (connection, may_end): (Connection, bool),
        inactive: &Arc<[Known]>,
    ) {
        let own: Vec<Known> = (0..SESSIONS)
            .map(|number| Known::active(fleet, &format!("client{}of{number}", self.told.len())))
            .collect();
        self.sessions.extend_from_slice(&own);
        let (tell, told) = watch::channel(Told::default());
        self.told.push(told);
        let (gateway, inactive) = (fleet.member(member).addr(), Arc::clone(inactive));
        self.tasks.spawn(async move {
            let mut connection = Some(connection);
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for turn in 0_usize.. {
                pace.tick().await;
                // One that no member knows, one that this member knows, and one that is nobody's.
                for known in [
                    &own[turn % own.len()],
                    &own[turn.saturating_sub(1) % own.len()],
                    &inactive[turn % inactive.len()],
                ] {
                    if connection.is_none() {
                        connection = Connection::try_open(gateway).await.ok();
                    }
                    let response = match &mut connection {
                        Some(connection) => connection.try_request(&known.request()).await,
                        None => None,
                    };
                    let verdict = response.as_ref().map(|it| known.is_verdict(it));
                    if verdict.is_none() {
                        assert!(may_end, "the connection ended");
                        connection = None;
                    }
                    tell.send_modify(|told| match verdict {
                        Some(true) => told.verdicts += 1,
                        Some(false) => told.unavailable += 1,
                        None => told.nothing += 1,
                    });
                }
            }
        });
    }

    /// Resolves when each of these clients has been told this much from now on.
    async fn wait_for(&mut self, which: std::ops::Range<usize>, enough: fn(Told, Told) -> bool) {
        let begun: Vec<Told> = self.told.iter().map(|told| *told.borrow()).collect();
        for (told, before) in self
            .told
            .iter_mut()
            .zip(begun)
            .take(which.end)
            .skip(which.start)
        {
            let waiting = told.wait_for(|told| enough(before, *told));
            // A client that is gone has failed.
            let seen = within_limit("a client to be answered", waiting).await;
            assert!(seen.is_ok(), "a client failed, see above");
        }
    }

    async fn wait_for_verdicts(&mut self, which: std::ops::Range<usize>) {
        self.wait_for(which, |before, now| now.verdicts >= before.verdicts + 30)
            .await;
    }

    /// Ends all. What each was told.
    async fn end(mut self) -> Vec<Told> {
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            // One that had failed before says so here.
            assert!(ended.is_err_and(|error| error.is_cancelled()));
        }
        self.told.iter().map(|told| *told.borrow()).collect()
    }
}

fn calls(fleet: &Fleet, all: &[Known]) -> u64 {
    all.iter().map(|known| fleet.mas.calls(&known.token)).sum()
}

/// A member's share is what it keeps the answers of. It costs its share again each time that these answers are lost or
/// must be found elsewhere, and that is once for each of two moves: its tokens move to other members when it is gone, and
/// back to it, who has kept nothing, when it is there again. A member that is killed and restarted while none of its tokens
/// is used makes one move of it, and so costs its share once.
#[tokio::test]
async fn a_member_that_is_killed_and_restarted_costs_its_share_again_and_no_wrong_answer() {
    // What is asked for again has been lost: no answer becomes too old in a test.
    let mut fleet = Fleet::start_with(|config| set_ttls(config, "600s", "600s"), None).await;
    let all: Vec<Known> = (0..TOKENS)
        .map(|number| Known::active(&fleet, &format!("user{number}")))
        .collect();
    let inactive: Arc<[Known]> = (0..50).map(|_| Known::inactive()).collect();
    ask_all(&mut fleet.connections(0).await[0], &all).await;
    let shares = fleet.introspections().await;
    let share = shares[2];
    assert_eq!(calls(&fleet, &all), TOKENS);
    assert_eq!(shares.iter().sum::<u64>(), TOKENS);

    // From here on every worker is asked all the time.
    let mut clients = Clients::new();
    for member in 0..2 {
        clients.add(&fleet, member, false, &inactive).await;
    }
    let at_the_living = 0..clients.told.len();
    clients.add(&fleet, 2, true, &inactive).await;
    let at_the_dead = at_the_living.end..clients.told.len();
    let everywhere = 0..clients.told.len();
    clients.wait_for_verdicts(everywhere.clone()).await;

    // Another member has kept none of the answers. It notices by the first call that fails.
    let begun = Instant::now();
    fleet.kill(2);
    clients
        .wait_for(at_the_dead.clone(), |before, now| {
            now.nothing > before.nothing
        })
        .await;
    ask_all(&mut fleet.connections(1).await[1], &all).await;
    clients.wait_for_verdicts(at_the_living).await;
    let killed = calls(&fleet, &all) - TOKENS;
    assert_eq!(killed, share, "the share of the third");

    fleet.restart(2).await;
    // Its clients have connected again.
    clients.wait_for_verdicts(at_the_dead).await;
    for mut connection in fleet.connections(2).await {
        ask_all(&mut connection, &all).await;
    }
    clients.wait_for_verdicts(everywhere).await;
    let restarted = calls(&fleet, &all) - TOKENS - killed;
    assert_eq!(restarted, share, "its own part, and no other");

    // Of what the clients asked for, MAS was asked twice for no more than what was under way, or was asked for again at
    // the member that had lost it.
    let sessions = std::mem::take(&mut clients.sessions);
    let told = clients.end().await;
    let (mut asked, mut again) = (0, 0);
    for known in &sessions {
        let calls = fleet.mas.calls(&known.token);
        asked += u64::from(calls > 0);
        again += calls.saturating_sub(1);
    }
    println!(
        "share {share}, killed {killed}, restarted {restarted}, in {:?}; {asked} sessions of clients, {again} asked for again; \
         clients were told {told:?}",
        begun.elapsed()
    );
    assert!(again <= 2 * told.len() as u64, "{again} of {asked}");
    // A call that the member has taken along is made again at another.
    let unavailable: u64 = told.iter().map(|told| told.unavailable).sum();
    assert_eq!(unavailable, 0, "{told:?}");

    // Nobody asks between the two.
    let before = calls(&fleet, &all);
    fleet.kill(2);
    fleet.restart(2).await;
    for mut connection in fleet.connections(2).await {
        ask_all(&mut connection, &all).await;
        ask_all(&mut connection, &inactive).await;
    }
    assert_eq!(calls(&fleet, &all) - before, share, "once");
    for member in 0..MEMBERS {
        ask_all(&mut fleet.connections(member).await[0], &all).await;
    }
    assert_eq!(calls(&fleet, &all) - before, share, "and no more");
    fleet.assert_untroubled();
}

/// As if nobody noticed yet that a member is gone.
fn without_ejection(config: &mut Value) {
    set_ttls(config, "600s", "600s");
    let tier = bootstrap::cluster(config, "introspection-tier");
    let tier = tier.as_object_mut().expect("a cluster");
    for known_by in ["outlier_detection", "health_checks"] {
        assert!(tier.remove(known_by).is_some(), "{known_by}");
    }
}

/// A worker learns of an ejection from the main thread. Until then a call that is repeated must not meet the same member.
#[tokio::test]
async fn a_call_to_a_member_that_is_gone_is_made_at_the_next_one_before_its_ejection_is_known() {
    let mut fleet = Fleet::start_with(without_ejection, None).await;
    let all: Vec<Known> = (0..TOKENS)
        .map(|number| Known::active(&fleet, &format!("user{number}")))
        .collect();
    fleet.kill(2);
    ask_all(&mut fleet.connections(0).await[0], &all).await;
    // The next one is the same for all who ask, so that MAS is asked once.
    ask_all(&mut fleet.connections(1).await[1], &all).await;
    assert_eq!(calls(&fleet, &all), TOKENS);
    let repeated = "cluster.introspection-tier.upstream_rq_retry_success";
    let repeated = fleet.member(0).stat(repeated).await;
    assert!((50..=150).contains(&repeated), "{repeated}");
    fleet.assert_untroubled();
}
