//! The questions to a database that docs/runbook.md gives, asked of a PostgreSQL.

use crate::support::{envoy::read, synapse::workers::Services};

/// MAS's table of jobs, as its migrations make it, with a job that waits and two that are done. It goes with the session.
const JOBS: &str = "
    CREATE TYPE pg_temp.queue_job_status AS ENUM ('available', 'scheduled', 'running', 'completed', 'failed', 'lost');
    CREATE TEMP TABLE queue_jobs (
        queue_job_id UUID NOT NULL PRIMARY KEY,
        status pg_temp.queue_job_status NOT NULL DEFAULT 'available',
        created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
        queue_name TEXT NOT NULL,
        payload JSONB NOT NULL DEFAULT '{}'
    );
    INSERT INTO queue_jobs (queue_job_id, status, queue_name)
        VALUES (gen_random_uuid(), 'available', 'sync-devices'),
            (gen_random_uuid(), 'completed', 'sync-devices'),
            (gen_random_uuid(), 'completed', 'sync-devices');";

#[tokio::test]
async fn the_questions_to_a_database_are_answered() {
    let page = read("docs/runbook.md");
    let quoted = page.split('`').skip(1).step_by(2);
    let questions: Vec<&str> = quoted.filter(|text| text.starts_with("SELECT ")).collect();
    let [activity, jobs] = questions[..] else {
        panic!("other questions than two: {questions:?}");
    };
    let services = Services::start().await;
    // The only connection that works is the one that asks.
    let ask = |statements: &str| {
        services.psql(
            "postgres",
            &["--single-transaction", "--command", statements],
        )
    };
    let answer = ask(activity);
    assert!(answer.contains("pg_stat_activity"), "{answer}");
    let answer = ask(&format!("{JOBS} {jobs}"));
    for row in [
        ["sync-devices", "available", "1"],
        ["sync-devices", "completed", "2"],
    ] {
        let is_there = answer.lines().any(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            cells == row
        });
        assert!(is_there, "{row:?} in {answer}");
    }
}
