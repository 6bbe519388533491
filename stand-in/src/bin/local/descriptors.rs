//! The number of files and connections that a process may have open.
//!
//! A thousand requests at once are a thousand connections to the homeserver at its end and as many at Envoy's. Many
//! systems allow a process 1,024 descriptors, macOS 256, and more if it asks. Envoy, started later, inherits what is set here.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than a herd needs, and less than macOS ever refuses.
const WANTED: u64 = 8192;

/// Raises the limit as far as the system allows. A lower one only makes a herd slower, so a refusal is no failure.
pub(crate) fn allow_many() {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(WANTED, |most| most.min(WANTED));
    if limit.current.is_some_and(|current| current < allowed) {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(allowed),
                maximum: limit.maximum,
            },
        );
    }
}
