//! The guard against logging everyone out, with what the module itself counts: it tells sessions that MAS has forgotten from
//! invented tokens. How soon it fires, and where else, is in `ops/prometheus/rules_test.yaml`.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    prometheus::Prometheus,
    site::{Site, USERS},
};
use crate::support::http::within_limit;

const ALERT: &str = r#"ALERTS{alertname="MatrixEdgeAuthRejectionSpike", instance="edge-1"}"#;
const REJECTIONS: &str =
    r#"matrix_edge_auth:session_ending_rejections:increase5m{instance="edge-1"}"#;

/// How long clients wait between requests.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_mas_forgets_are_told_from_invented_tokens() {
    let site = Site::start().await;
    let prometheus = Prometheus::start(site.envoy.admin()).await;
    prometheus.wait_for("up", |is_up| is_up == 1.0).await;
    let everyone: Vec<usize> = (0..USERS).collect();
    for _ in 0..10 {
        assert_eq!(site.serve(0..USERS).await, everyone);
    }
    site.scan().await;
    prometheus.wait_for(REJECTIONS, |count| count > 100.0).await;
    // The alert has been looked at since.
    let now = prometheus.now().await;
    let evaluated = format!("timestamp({REJECTIONS})");
    prometheus
        .wait_for(&evaluated, |moment| moment > now + 1.0)
        .await;
    assert!(prometheus.query(ALERT).await.is_empty(), "at invented ones");

    site.forget_all();
    within_limit("the end of each session", async {
        // A client that got a 401 asks no more.
        let mut left = everyone;
        while !left.is_empty() {
            left = site.serve(left).await;
            sleep(PAUSE).await;
        }
    })
    .await;
    // Pending: it fires after a minute.
    prometheus
        .wait_for(ALERT, |is_active| is_active == 1.0)
        .await;
}
