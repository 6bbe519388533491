//! Holds the stand-ins to what was seen of a real MAS and a real Synapse. One program, since each would take half a minute to
//! build.

#![expect(clippy::expect_used, reason = "tests")]

mod homeserver;
mod jobs;
#[cfg(target_os = "linux")]
mod local;
mod mas;
mod page;
mod provisioning;
mod refresh;
mod support;
