//! How soon the end of a session, which one member sees, is a 401 on every worker of all.
//!
//! Each worker of each member is asked again and again meanwhile. So every member asks the tier anew at once, also a
//! member of it that has not heard of the end yet.

use std::{sync::Arc, time::Duration};

use stand_in::mas::Session;
use tokio::{task::JoinSet, time::sleep};

use super::{
    super::{
        edge::{WHOAMI, assert_not_active, new_token},
        sessions::{logout, revocation_with_post},
    },
    CLIENT, WORKERS, ask_all,
    site::{Fleet, MEMBERS},
};
use crate::support::{
    http::{Connection, Request, within_limit},
    product_time::{Moment, Stalls},
};

/// Between two requests to one worker.
const POLL: Duration = Duration::from_millis(40);

/// Sessions that end beside each other.
const AT_ONCE: usize = 4;

/// Ends of each kind.
const ENDS: usize = 40;

/// Bystanders that MAS may be asked about once more. Two users may share a voiding record, and one whose record has made
/// room for another's is asked about again: of [`ENDS`] users and 16,384 records, two share one in a run of twenty, and two
/// pairs do in a run of a thousand.
const ASKED_AGAIN: u64 = 2;

/// A connection to each worker of the fleet.
type Connections = Vec<Connection>;

/// What ends a session.
#[derive(Clone, Copy, Debug)]
enum End {
    /// An administrator ends it: `sync_devices`.
    SyncDevices,
    /// The user is locked: `provision_user`, then `sync_devices`.
    Lock,
    /// `POST /logout`.
    Logout,
    /// `POST /logout/all` with another token of the user, which no member knows.
    LogoutAll,
    /// `POST /oauth2/revoke`.
    Revocation,
}

/// A session that is to end, and one that is not to.
struct Pair {
    ended: String,
    bystander: String,
}

impl Pair {
    fn new(fleet: &Fleet, end: End, number: usize) -> Self {
        let username = format!("{end:?}{number}").to_lowercase();
        let session = |username: &str, device| match end {
            End::Logout | End::LogoutAll => Session::compat(username, device),
            _ => Session::access(username, device).client_id(CLIENT.0),
        };
        let insert = |session| {
            let token = new_token(if matches!(end, End::Logout) {
                "mct"
            } else {
                "mat"
            });
            fleet.mas.insert(&token, session);
            token
        };
        // Of a user who is locked or logs out everywhere all sessions end.
        let other = match end {
            End::Lock | End::LogoutAll => format!("bystander{number}"),
            _ => username.clone(),
        };
        Self {
            ended: insert(session(&username, "PHONE")),
            bystander: insert(session(&other, "LAPTOP")),
        }
    }

    /// Ends the session, as `member` sees it.
    async fn end(&self, fleet: &Fleet, end: End, number: usize, at: &mut Connection) {
        match end {
            End::SyncDevices => fleet.mas.revoke(&self.ended),
            End::Lock => fleet.mas.lock_user(&format!("lock{number}")),
            End::Logout => {
                let response = at.request(&logout("v3", &self.ended)).await;
                assert_eq!(response.status, 200, "{response:?}");
            }
            End::LogoutAll => {
                let session = Session::compat(&format!("logoutall{number}"), "LAPTOP");
                let token = new_token("mct");
                fleet.mas.insert(&token, session);
                let everywhere = Request::new("POST", "/_matrix/client/v3/logout/all");
                let response = at.request(&everywhere.bearer(&token)).await;
                assert_eq!(response.status, 200, "{response:?}");
            }
            End::Revocation => {
                let revocation =
                    revocation_with_post(&self.ended).header("Host", "auth.example.org");
                let response = at.request(&revocation).await;
                assert_eq!(response.status, 200, "{response:?}");
            }
        }
    }
}

/// How long after `ended` the worker behind a connection refused the token.
async fn until_refused(connection: &mut Connection, token: &str, ended: Moment) -> Duration {
    let request = Request::get(WHOAMI).bearer(token);
    within_limit("the token to be refused", async {
        loop {
            let response = connection.request(&request).await;
            if response.status == 401 {
                assert_not_active(&response);
                return ended.elapsed();
            }
            assert_eq!(response.status, 200, "{response:?}");
            sleep(POLL).await;
        }
    })
    .await
}

async fn connections(fleet: &Fleet) -> Connections {
    let mut connections = Vec::new();
    for member in 0..MEMBERS {
        connections.extend(fleet.connections(member).await);
    }
    connections
}

/// How long it takes until all workers refuse each session, which ends in this way.
async fn measure(fleet: &Arc<Fleet>, end: End) -> Vec<Duration> {
    let stalls = Stalls::measure();
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        let mut asking = connections(fleet).await;
        let mut ending = connections(fleet).await;
        let fleet = Arc::clone(fleet);
        clients.spawn(async move {
            let mut took = Vec::new();
            let mut pairs = Vec::new();
            for number in (client..ENDS).step_by(AT_ONCE) {
                let pair = Pair::new(&fleet, end, number);
                for connection in &mut asking {
                    ask_all(connection, &[pair.ended.clone(), pair.bystander.clone()]).await;
                }
                let ended = Moment::now();
                let waiting: JoinSet<_> = std::mem::take(&mut asking)
                    .into_iter()
                    .map(|mut connection| {
                        let token = pair.ended.clone();
                        async move {
                            let took = until_refused(&mut connection, &token, ended).await;
                            (connection, took)
                        }
                    })
                    .collect();
                let at = number % (MEMBERS * WORKERS);
                pair.end(&fleet, end, number, &mut ending[at]).await;
                let all = waiting.join_all().await;
                took.extend(all.iter().map(|(_, took)| *took).max());
                asking = all.into_iter().map(|(connection, _)| connection).collect();
                pairs.push(pair);
            }
            (asking, pairs, took)
        });
    }
    let (mut took, mut asked_again) = (Vec::new(), 0);
    for (mut connections, pairs, of_client) in clients.join_all().await {
        took.extend(of_client);
        // What has ended stays ended, and the others are as they were: MAS was not asked about them again.
        for connection in &mut connections {
            for pair in &pairs {
                let request = Request::get(WHOAMI).bearer(&pair.ended);
                assert_not_active(&connection.request(&request).await);
                ask_all(connection, std::slice::from_ref(&pair.bystander)).await;
            }
        }
        for pair in &pairs {
            let calls = fleet.mas.calls(&pair.bystander);
            assert!(calls > 0, "{end:?}");
            asked_again += calls - 1;
        }
    }
    let most = match *stalls.calls_for_a_token(MEMBERS * WORKERS).end() {
        1 => ASKED_AGAIN,
        calls => calls * ENDS as u64,
    };
    assert!(asked_again <= most, "{end:?}: {asked_again} once more");
    took.sort();
    took
}

#[tokio::test]
async fn what_ends_at_one_member_is_refused_by_all_within_a_second() {
    let fleet = Arc::new(Fleet::start().await);
    let mut all = Vec::new();
    // What ends one session must be heard without a word of MAS. Of the end of all of them MAS tells as well: a member that
    // is slow finds nobody who still knows whose token it was.
    for end in [
        End::Logout,
        End::Revocation,
        End::LogoutAll,
        End::SyncDevices,
        End::Lock,
    ] {
        if matches!(end, End::LogoutAll) {
            let member = fleet.member(1);
            fleet.mas.set_homeserver(member.listener("provisioning"));
        }
        let took = measure(&fleet, end).await;
        print(&format!("{end:?}"), &took);
        all.extend(took);
    }
    all.sort();
    print("all", &all);
    assert_eq!(all.len(), 200);
    assert!(percentile(&all, 99) < Duration::from_secs(1), "{all:?}");
    fleet.assert_untroubled();
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

fn print(what: &str, sorted: &[Duration]) {
    let [p50, p99, worst] = [50, 99, 100].map(|percent| percentile(sorted, percent).as_millis());
    println!(
        "{what}: {} ends, p50 {p50} ms, p99 {p99} ms, worst {worst} ms",
        sorted.len()
    );
}
